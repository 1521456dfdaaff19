"""Writing GGUF and reading it back; what `gguf` writes and reads."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType, dequantize, quantize
from understudy.model.checkpoint import load_model
from understudy.model.gguf_reader import read_gguf
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def write(path: Path, config, tensors, **options: Any) -> Path:
    options = {"file_type": "f16", **options}
    write_gguf(path, config, tensors, byte_tokenizer().definition, options.pop("chat_template", None), **options)
    return path


def test_f16_round_trip_keeps_every_bit(path: Path, config, tensors) -> None:
    model = load_model(write(path, config, tensors, chat_template="{{ messages }}", metadata={"general.name": "Tiny"}))
    assert model.config == config
    assert model.chat_template == "{{ messages }}"
    assert model.metadata["general.name"] == "Tiny"
    assert model.file_bytes == path.stat().st_size
    assert model.tokenizer.definition == byte_tokenizer().definition
    for name, values in tensors.items():
        expected = (values + np.float32(1)) - np.float32(1) if name.endswith("norm.weight") else values
        np.testing.assert_array_equal(model.weights[name].dense(), expected, err_msg=name)


def test_q8_0_round_trip(path: Path, config, tensors) -> None:
    model = load_model(write(path, config, tensors, file_type="q8_0"))
    for name, values in tensors.items():
        if values.ndim == 2:
            expected = dequantize(quantize(values, StorageType.Q8_0), StorageType.Q8_0, values.shape)
            assert model.weights[name].kind is StorageType.Q8_0
            np.testing.assert_array_equal(model.weights[name].dense(), expected)


def test_rows_that_do_not_fill_blocks_stay_f16(path: Path) -> None:
    config = tiny_config(intermediate_size=50)
    model = load_model(write(path, config, random_tensors(config), file_type="q8_0"))
    assert model.weights["model.layers.0.mlp.down_proj.weight"].kind is StorageType.F16
    assert model.weights["model.layers.0.mlp.up_proj.weight"].kind is StorageType.Q8_0


def test_a_loaded_model_can_be_written_again(path: Path, tmp_path: Path, config, tensors) -> None:
    model = load_model(write(path, config, tensors, file_type="q8_0"))
    write(tmp_path / "again.gguf", model.config, model.weights, file_type="q8_0")
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("has_copy", [True, False])
def test_tied_models(path: Path, tmp_path: Path, has_copy: bool) -> None:
    config = tiny_config(tie_word_embeddings=True)
    write(path, config, random_tensors(config))
    if not has_copy:
        rewrite(path, drop="output.weight", metadata={"understudy.tie_word_embeddings": None})
    model = load_model(path)
    assert model.config == config
    assert "lm_head.weight" not in model.weights


@pytest.mark.parametrize("factor", [i / 32 for i in range(2, 33, 2)])
@pytest.mark.parametrize("head_dim", [32, 96])
def test_the_rotary_share_survives(path: Path, head_dim: int, factor: float) -> None:
    config = tiny_config(head_dim=head_dim, partial_rotary_factor=factor, num_hidden_layers=1)
    loaded = load_model(write(path, config, random_tensors(config))).config
    assert loaded.rotary_dim == config.rotary_dim


def test_spare_ids_of_the_model_become_unused_tokens(path: Path) -> None:
    config = tiny_config(vocab_size=300)
    metadata = read_gguf(write(path, config, random_tensors(config))).metadata
    assert metadata["tokenizer.ggml.tokens"][299] == "[PAD299]"
    assert metadata["tokenizer.ggml.token_type"][299] == 5


def test_the_gguf_package_reads_it(path: Path, config, tensors) -> None:
    values: dict[str, Any] = {"a.int": 3, "a.negative": -3, "a.float": 0.5, "a.flag": True, "a.list": ["x", "y"]}
    reader = gguf.GGUFReader(write(path, config, tensors, metadata=values))
    for key, value in values.items():
        assert reader.fields[key].contents() == value
    assert reader.fields["nemotron.rope.dimension_count"].contents() == config.rotary_dim
    found = {t.name: t for t in reader.tensors}
    np.testing.assert_array_equal(found["blk.1.ffn_up.weight"].data, tensors["model.layers.1.mlp.up_proj.weight"])
    np.testing.assert_array_equal(found["output_norm.weight"].data, tensors["model.norm.weight"] + np.float32(1))
    assert all(t.data_offset % 32 == 0 for t in reader.tensors)


def rewrite(path: Path, *, drop: str = "", metadata: dict[str, Any] | None = None, kinds: Any = None) -> None:
    """Write the file again with the `gguf` package, with changed metadata (None drops a key) and tensors."""
    old = read_gguf(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "nemotron")
    keys = {**old.metadata, **(metadata or {})}
    del keys["general.architecture"]
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None and len(value):
            writer.add_array(key, value)
    for name, weight in old.tensors.items():
        if name != drop:
            kind = (kinds or {}).get(name, weight.kind)
            dense = weight.dense().astype(np.float16 if kind is StorageType.F16 else np.float32)
            raw = None if kind in (StorageType.F16, StorageType.F32) else gguf.GGMLQuantizationType(int(kind))
            data = dense if raw is None else gguf.quants.quantize(dense, raw)
            writer.add_tensor(name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


def test_files_of_the_gguf_package_in_other_formats(path: Path, config, tensors) -> None:
    write(path, config, tensors)
    kinds = {"blk.0.ffn_up.weight": StorageType.BF16, "blk.0.ffn_down.weight": StorageType.Q4_0}
    rewrite(path, kinds=kinds)
    model = load_model(path)
    np.testing.assert_array_equal(
        model.weights["model.layers.0.mlp.up_proj.weight"].dense(), tensors["model.layers.0.mlp.up_proj.weight"]
    )
    down = model.weights["model.layers.0.mlp.down_proj.weight"]
    assert down.kind is StorageType.Q4_0
    assert np.abs(down.dense() - tensors["model.layers.0.mlp.down_proj.weight"]).max() < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nemotron.block_count": 3}, "blk.2|layers.2"),
        ({"nemotron.block_count": None}, "block_count"),
        ({"nemotron.block_count": 4_000_000_000}, "num_hidden_layers"),
        ({"nemotron.attention.head_count": 0}, "num_attention_heads"),
        ({"nemotron.attention.head_count": "four"}, "head_count"),
        ({"nemotron.attention.head_count_kv": [2, 1]}, "head_count_kv"),
        ({"nemotron.attention.value_length": 8}, "value_length"),
        ({"nemotron.attention.layer_norm_epsilon": float("nan")}, "norm_eps"),
        ({"nemotron.rope.dimension_count": 7}, "even"),
        ({"nemotron.rope.scaling.type": "yarn", "nemotron.rope.scaling.factor": 4.0}, "rope"),
        ({"split.count": 3}, "split"),
        ({"tokenizer.huggingface.json": "{"}, "JSON"),
        ({"tokenizer.huggingface.json": '{"model": 3}'}, "tokenizer"),
        ({"tokenizer.huggingface.json": None, "tokenizer.ggml.model": "t5"}, "'t5'"),
        (
            {"tokenizer.huggingface.json": None, "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.merges": ["h e"]},
            "'llama-bpe'",
        ),
        (
            {"tokenizer.huggingface.json": None, "tokenizer.ggml.tokens": None, "tokenizer.ggml.token_type": None},
            "tokens",
        ),
        ({"tokenizer.ggml.token_type": [1, 2]}, "token_type"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokens"),
        ({"tokenizer.ggml.eos_token_id": "three"}, "eos"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(path: Path, config, tensors, change: Any, words: str) -> None:
    rewrite(write(path, config, tensors), metadata=change)
    with pytest.raises(ModelFileError, match=words):
        load_model(path)


def test_a_foreign_architecture_is_named(path: Path, config, tensors) -> None:
    data = write(path, config, tensors).read_bytes()
    path.write_bytes(data.replace(b"\x08\0\0\0\0\0\0\0nemotron", b"\x08\0\0\0\0\0\0\0mistral3", 1))
    with pytest.raises(ModelFileError, match="'mistral3'"):
        load_model(path)


def test_one_head_count_a_layer_is_fine_where_all_agree(path: Path, config, tensors) -> None:
    rewrite(write(path, config, tensors), metadata={"nemotron.attention.head_count_kv": [2, 2]})
    assert load_model(path).config == config


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03", "big-endian"),
        (b"GGUF\x03\0\0\0", b"GGUF\x01\0\0\0", "version 1"),
        (b"GGUF\x03\0\0\0", b"GGUF\x09\0\0\0", "version 9"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", "twice|missing"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_z.weight", "missing"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_\xff.weight", "UTF-8"),
        (b"blk.0.attn_q.weight\x02\0\0\0", b"blk.0.attn_q.weight\x09\0\0\0", "9 dimensions"),
        (b"blk.0.attn_q.weight\x02\0\0\0\x40", b"blk.0.attn_q.weight\x02\0\0\0\0", "impossible"),
        (b"general.alignment\x04\0\0\0\x20", b"general.alignment\x04\0\0\0\0", "alignment"),
        (b"general.alignment\x04\0\0\0", b"general.alignment\x63\0\0\0", "unknown type"),
    ],
)
def test_damaged_files_are_refused(path: Path, config, tensors, old: bytes, new: bytes, words: str) -> None:
    data = write(path, config, tensors).read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ModelFileError, match=words):
        load_model(path)


def test_a_format_that_is_not_read_is_named(path: Path, config, tensors) -> None:
    data = write(path, config, tensors).read_bytes()
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    path.write_bytes(data[:at] + (13).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(ModelFileError, match="Q5_K"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.norm.bias"), "missing"),
        (lambda t: t.update({"model.norm.bias": np.zeros(3, np.float32)}), "shape"),
        (lambda t: t.update({"lm_head.weight": np.full((268, 64), np.nan, np.float32)}), "not a number"),
    ],
)
def test_tensors_that_cannot_be_written(path: Path, config, tensors, change: Any, words: str) -> None:
    path.write_bytes(b"old")
    changed = dict(tensors)
    change(changed)
    with pytest.raises(ModelFileError, match=words):
        write(path, config, changed)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_tokenizers_that_cannot_be_written(path: Path, config, tensors) -> None:
    definition = byte_tokenizer().definition
    for change in ({"model": {"type": "Unigram"}}, {"pre_tokenizer": None}, {"normalizer": {"type": "NFC"}}):
        with pytest.raises(ModelFileError, match="byte-level"):
            write_gguf(path, config, tensors, {**definition, **change}, None, file_type="f16")
    small = tiny_config(vocab_size=200)
    tensors_of_it = random_tensors(small)
    with pytest.raises(ModelFileError, match="has id"):
        write_gguf(path, small, tensors_of_it, definition, None, file_type="f16")
    with pytest.raises(ModelFileError, match="written"):
        write(path.parent / "missing" / "x.gguf", config, tensors)


def test_the_tokenizer_is_rebuilt_without_its_json(path: Path, config, tensors) -> None:
    rewrite(
        write(path, config, tensors), metadata={"tokenizer.huggingface.json": None, "tokenizer.ggml.merges": ["h e"]}
    )
    with pytest.raises(ModelFileError, match="tokenizer"):  # 'he' is no token
        load_model(path)
    definition = json.loads(json.dumps(byte_tokenizer().definition))
    vocab = definition["model"]["vocab"]
    for n, (left, right) in enumerate([("h", "e"), ("\u0120", "t"), ("\u0120t", "he"), ("1", "2")]):
        vocab[left + right] = 268 + n
        definition["model"]["merges"].append([left, right])
    config = tiny_config(vocab_size=272)
    write_gguf(path, config, random_tensors(config), definition, None, file_type="f16")
    with_json = load_model(path).tokenizer
    rewrite(path, metadata={"tokenizer.huggingface.json": None})
    without = load_model(path).tokenizer
    assert without.specials == with_json.specials
    for text in ("the ferry, the 12 lanterns", "he said: the\n\n  end 1212", "\u00e9\U0001f409 <extra_id_1> </s>"):
        assert without.encode(text) == with_json.encode(text)
        assert without.decode(without.encode(text)) == text
    assert len(without.encode(" the")) == 1
