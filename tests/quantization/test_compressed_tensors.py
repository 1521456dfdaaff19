"""The 4-bit folder for vLLM, read back by the library whose layout it is, and by transformers."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.quantization import compressed_tensors
from understudy.quantization.compressed_tensors import (
    PackedGroups,
    pack_groups,
    unpack_groups,
    write_compressed_tensors,
)
from understudy.testing.tiny import tiny_model
from understudy.training.folder import write_folder


def model() -> LoadedModel:
    return tiny_model(hidden_size=256, intermediate_size=384, head_dim=32)


def matrix(rows: int = 24, cols: int = 512) -> Tensor:
    values = torch.randn(rows, cols, generator=torch.Generator().manual_seed(0))
    values[3, 128:256] = 0
    values[4, 7] = 30  # an outlier
    return values


def test_every_level_is_stored_and_found() -> None:
    levels = torch.arange(-8, 8).repeat(8).float()
    found = pack_groups(levels[None] * 0.25)
    assert found.packed.shape == (1, 16) and found.scales.shape == (1, 1)
    assert found.packed[0, 0] == sum(level << 4 * place for place, level in enumerate(range(8)))  # lowest bits first
    assert torch.equal(unpack_groups(found).float(), levels[None] * 0.25)


def test_the_search_beats_plain_rounding_where_it_counts() -> None:
    weight = matrix()
    strengths = torch.rand(512, generator=torch.Generator().manual_seed(1)) ** 4
    grouped = weight.view(24, 4, 128)
    scale = grouped.abs().amax(2, keepdim=True) / 7
    plain = ((grouped / scale.clamp_min(1e-9)).round().clamp(-8, 7) * scale).view(24, 512)

    def error(rounded: Tensor) -> float:
        return float(((weight - rounded).square() * strengths).mean())

    weighted = error(unpack_groups(pack_groups(weight, strengths)).float())
    alike = error(unpack_groups(pack_groups(weight)).float())
    assert weighted < alike < error(plain)
    assert weighted < 0.85 * error(plain)


def test_a_group_of_zeros_is_zero_and_its_scale_divides() -> None:
    found = pack_groups(matrix())
    assert (found.scales > 0).all()
    assert (unpack_groups(found)[3, 128:256] == 0).all()


@pytest.mark.parametrize(
    ("cols", "group_size", "message"),
    [
        (192, 128, "choose a group size of 64 or 32"),
        (200, 128, "no group size of vLLM's fits"),
        (256, 0, "choose a group size of 128"),
    ],
)
def test_rows_that_do_not_fill_their_groups(cols: int, group_size: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack_groups(torch.zeros(2, cols), group_size=group_size)


def test_a_weight_that_is_no_number(tmp_path: Path) -> None:
    weight = matrix()
    weight[0, 0] = torch.nan
    with pytest.raises(DataError, match="infinite or not a number"):
        pack_groups(weight)
    with pytest.raises(DataError, match="Rows of 64, 96 values do not fill groups of 128; choose a group size of 32"):
        write_compressed_tensors(tmp_path / "folder", tiny_model())
    assert not (tmp_path / "folder").exists()


def packed_of(tensors: dict[str, Tensor], name: str) -> PackedGroups:
    return PackedGroups(packed=tensors[f"{name}_packed"], scales=tensors[f"{name}_scale"])


def test_the_library_reads_the_same_values(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    files = model()
    strengths = {name: np.linspace(0, 2, weight.shape[-1]) for name, weight in files.weights.items()}
    write_compressed_tensors(tmp_path, files, strengths=strengths)
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config.pop("quant_method") == "compressed-tensors"
    scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
    tensors = load_file(tmp_path / "model.safetensors")
    names = [name for name in files.weights if name.endswith("_proj.weight")]
    assert len(names) == 12
    for name in names:
        stored = {part: tensors[f"{name}_{part.removeprefix('weight_')}"] for part in ("weight_packed", "weight_scale")}
        stored["weight_shape"] = tensors[f"{name}_shape"]
        theirs = PackedQuantizationCompressor.decompress(stored, scheme)["weight"]
        ours = unpack_groups(packed_of(tensors, name))
        assert theirs.shape == files.weights[name].shape
        assert torch.equal(theirs, ours)
        assert torch.equal(
            PackedQuantizationCompressor.compress({"weight": ours, **_scale(stored)}, scheme)["weight_packed"],
            stored["weight_packed"],
        )


def _scale(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"weight_scale": stored["weight_scale"]}


def test_transformers_loads_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from transformers import NemotronForCausalLM

    files = model()
    write_compressed_tensors(tmp_path / "packed", files)
    tensors = load_file(tmp_path / "packed" / "model.safetensors")
    plain = {
        name: unpack_groups(packed_of(tensors, name)) if name.endswith("_proj.weight") else tensors[name]
        for name in files.weights
    }
    write_folder(tmp_path / "plain", files.config, plain, files.tokenizer)
    ids = torch.arange(12, 44)[None]
    logits = []
    for kind in ("packed", "plain"):
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # theirs
            loaded = NemotronForCausalLM.from_pretrained(tmp_path / kind, dtype=torch.bfloat16)
            logits.append(loaded(ids).logits)
    torch.testing.assert_close(*logits, atol=0, rtol=0)


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = model()
    write_compressed_tensors(tmp_path / "whole", files)
    monkeypatch.setattr(compressed_tensors, "_SHARD_BYTES", 200_000)
    seen: list[tuple[int, int]] = []
    write_compressed_tensors(tmp_path / "cut", files, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(files.weights), len(files.weights))
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 1 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    found = {name: tensor for shard in shards for name, tensor in load_file(tmp_path / "cut" / shard).items()}
    assert found.keys() == whole.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in whole.values())
    monkeypatch.undo()
    write_compressed_tensors(tmp_path / "cut", files)  # no old shard or index stays to be taken for the model
    assert sorted(p.name for p in (tmp_path / "cut").glob("model*")) == ["model.safetensors"]
