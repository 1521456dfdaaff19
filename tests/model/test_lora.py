"""Adapters as `training.lora_files` writes them, merged into bases of each format."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from understudy.engine import Step
from understudy.errors import EngineError, ModelFileError
from understudy.kernels.formats import StorageType, quantize
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.lora import beside_adapter, is_adapter, read_adapter, with_adapter
from understudy.model.native_backend import CpuBackend, why_not_native
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight
from understudy.testing import byte_tokenizer, random_tensors, tiny_config, tiny_model
from understudy.training.lora import adapter_state, attach_lora, named_adapters
from understudy.training.lora_files import write_gguf_adapters, write_peft_folder
from understudy.training.model import NemotronLM, from_hf_tensors, to_hf_tensors
from understudy.training.recipe import LORA_MODULES, LoraRecipe

IDS = list(range(12, 40))


def adapted(recipe: LoraRecipe) -> NemotronLM:
    """A model with adapters beside it that say something, on the weights of `tiny_model()`."""
    torch.manual_seed(7)
    model = NemotronLM(tiny_config())
    from_hf_tensors(model, {name: torch.from_numpy(t) for name, t in random_tensors(tiny_config()).items()})
    attach_lora(model, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_b." in name:
                parameter.normal_(std=0.1)
    return model


def write(folder: Path, recipe: LoraRecipe, form: str) -> Path:
    pairs = named_adapters(adapter_state(adapted(recipe)))
    if form == "peft":
        write_peft_folder(folder / "adapters", pairs, recipe, base="base")
        return folder / "adapters"
    write_gguf_adapters(folder / "adapters.gguf", pairs, recipe)
    return folder / "adapters.gguf"


def logits(files: LoadedModel, kind: type[ReferenceBackend | CpuBackend] = ReferenceBackend) -> np.ndarray:
    backend = kind(files.config, files.weights)
    return backend.forward([Step(backend.new_cache(), IDS, len(IDS))])[0]


@pytest.mark.parametrize("form", ["peft", "gguf"])
@pytest.mark.parametrize("modules", [LORA_MODULES, ("k_proj", "down_proj")])
def test_merged_it_computes_what_training_did(tmp_path: Path, form: str, modules: tuple[str, ...]) -> None:
    recipe = LoraRecipe(rank=4, alpha=12.0, modules=modules)
    path, base = write(tmp_path, recipe, form), tiny_model()
    assert is_adapter(path)
    merged = with_adapter(base, read_adapter(path))
    with torch.no_grad():
        expected = adapted(recipe)(torch.tensor([IDS]))[0].numpy()
        # tensor by tensor, too: logits could hide a transposed one that is small
        for name, tensor in to_hf_tensors(adapted(recipe)).items():
            np.testing.assert_allclose(merged.weights[name].dense(), tensor.numpy(), atol=1e-6)
    assert abs(logits(base) - expected).max() > 0.05
    np.testing.assert_allclose(logits(merged), expected, atol=2e-4)
    assert (merged.path, merged.tokenizer, merged.config) == (path, base.tokenizer, base.config)
    assert merged.file_bytes > base.file_bytes


@pytest.mark.skipif(why_not_native(tiny_config()) is not None, reason="no native kernels")
@pytest.mark.parametrize(
    ("stored", "merged_as", "share"),
    [
        (StorageType.F16, StorageType.F16, 0.02),
        (StorageType.Q8_0, StorageType.Q8_0, 0.1),
    ],
)
def test_on_a_packed_base_by_the_compiled_kernels(
    tmp_path: Path, stored: StorageType, merged_as: StorageType, share: float
) -> None:
    recipe = LoraRecipe(rank=4, alpha=12.0, modules=("q_proj", "up_proj"))
    adapter, base = read_adapter(write(tmp_path, recipe, "gguf")), tiny_model()
    packed = {
        name: Weight(quantize(w.dense(), stored), stored, w.shape) if "proj" in name else w
        for name, w in base.weights.items()
    }
    base = dataclasses.replace(base, weights=packed)
    merged = with_adapter(base, adapter)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert merged.weights[name].kind is merged_as
    other = "model.layers.0.self_attn.k_proj.weight"
    assert merged.weights[other] is packed[other]  # what no adapter touches stays in the base's file
    wanted, got = logits(with_adapter(tiny_model(), adapter)), logits(merged, CpuBackend)
    # Of what the adapter changes, at most this share is lost to rounding.
    assert np.linalg.norm(got - wanted) < share * np.linalg.norm(logits(base) - wanted)


@pytest.mark.skipif(why_not_native(tiny_config()) is not None, reason="no native kernels")
@pytest.mark.parametrize(
    "modules", [LORA_MODULES, ("k_proj", "down_proj"), ("up_proj",), ("q_proj", "v_proj", "o_proj")]
)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_beside_a_loaded_base_it_computes_the_same(tmp_path: Path, modules: tuple[str, ...], num_threads: int) -> None:
    recipe = LoraRecipe(rank=5, alpha=12.0, modules=modules)
    adapter, files = read_adapter(write(tmp_path, recipe, "gguf")), tiny_model()
    wanted, plain = logits(with_adapter(files, adapter)), logits(files)
    base = CpuBackend(files.config, files.weights, num_threads=num_threads)
    voice = base.adapted({name: adapter.scaled(name) for name in adapter.pairs})
    got = voice.forward([Step(voice.new_cache(), IDS, len(IDS))])[0]
    assert abs(plain - wanted).max() > 1
    np.testing.assert_allclose(got, wanted, atol=0.02)  # keys and values of 16 bits
    # One by one, and in a batch in which few rows go on behind the last layer, it is the same bit for bit.
    cache = voice.new_cache()
    alone = np.concatenate([voice.forward([Step(cache, [i])])[0] for i in IDS])
    assert np.array_equal(alone, got)
    batch = [Step(voice.new_cache(), IDS, 2), Step(voice.new_cache(), IDS[:7], 1), Step(voice.new_cache(), IDS[:3], 0)]
    together = voice.forward(batch)
    assert np.array_equal(together[0], got[-2:])
    assert np.array_equal(together[1], got[6:7])
    # The base goes on as if there were no adapter, and its caches are not the adapter's.
    np.testing.assert_allclose(base.forward([Step(base.new_cache(), IDS, len(IDS))])[0], plain, atol=0.02)
    with pytest.raises(EngineError, match="foreign cache"):
        base.forward([Step(cache, [1])])
    assert voice.memory().weight_bytes < base.memory().weight_bytes


@pytest.mark.skipif(why_not_native(tiny_config()) is not None, reason="no native kernels")
@pytest.mark.parametrize("stored", [StorageType.Q8_0, StorageType.F16])
def test_beside_a_packed_base_nothing_of_an_adapter_is_rounded(tmp_path: Path, stored: StorageType) -> None:
    recipe = LoraRecipe(rank=4, alpha=12.0)
    adapter, files = read_adapter(write(tmp_path, recipe, "gguf")), tiny_model()
    packed = {
        name: Weight(quantize(w.dense(), stored), stored, w.shape) if "proj" in name else w
        for name, w in files.weights.items()
    }
    rounded = {n: Weight(w.dense(), StorageType.F32, w.shape) for n, w in packed.items()}
    base = CpuBackend(files.config, packed)
    voice = base.adapted({name: adapter.scaled(name) for name in adapter.pairs})
    got = voice.forward([Step(voice.new_cache(), IDS, len(IDS))])[0]
    wanted = logits(with_adapter(dataclasses.replace(files, weights=rounded), adapter))
    plain = logits(dataclasses.replace(files, weights=rounded))
    # What is left is the 8-bit activations of the base's products.
    assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(plain - wanted)


@pytest.mark.skipif(why_not_native(tiny_config()) is not None, reason="no native kernels")
def test_the_head_may_be_adapted_and_the_input_table_not() -> None:
    files = tiny_model()
    rng = np.random.default_rng(3)
    a = rng.standard_normal((17, files.config.hidden_size)).astype(np.float32)
    b = rng.standard_normal((files.config.vocab_size, 17)).astype(np.float32)
    base = CpuBackend(files.config, files.weights, num_threads=2)
    voice = base.adapted({"lm_head.weight": (a, b)})
    step = [IDS, len(IDS)]
    hidden = base.hidden_states([Step(base.new_cache(), IDS)])[0]
    plain, got = (one.forward([Step(one.new_cache(), *step)])[0] for one in (base, voice))  # type: ignore[arg-type]
    np.testing.assert_allclose(got, plain + hidden @ a.T @ b.T, rtol=1e-4, atol=1e-3)
    with pytest.raises(KeyError):
        base.adapted({"model.embed_tokens.weight": (a, b)})
    with pytest.raises(ValueError, match="does not fit"):
        base.adapted({"model.layers.0.mlp.up_proj.weight": (a, b)})


def test_files_beside_each_other(tmp_path: Path) -> None:
    """So that a saved session knows which of two adapters it belongs to."""
    files = tiny_model()
    first, second = (
        beside_adapter(files, read_adapter(write(tmp_path, LoraRecipe(rank=rank), "gguf"))) for rank in (2, 3)
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert first.weights[name] is files.weights[name]
    assert first.weights[f"{name}.lora_a"].shape != second.weights[f"{name}.lora_a"].shape
    with pytest.raises(ModelFileError, match="beside the base"):
        beside_adapter(first, read_adapter(write(tmp_path, LoraRecipe(rank=2), "gguf")))
    with pytest.raises(ModelFileError, match="does not fit"):
        beside_adapter(tiny_model(intermediate_size=64), read_adapter(write(tmp_path, LoraRecipe(rank=2), "gguf")))


def test_what_is_no_adapter(tmp_path: Path) -> None:
    config = tiny_config()
    model = tmp_path / "model.gguf"
    write_gguf(model, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    (tmp_path / "notes.txt").write_text("GGU")
    assert not any(map(is_adapter, (model, tmp_path, tmp_path / "notes.txt", tmp_path / "none")))
    with pytest.raises(ModelFileError, match="is no LoRA adapter"):
        read_adapter(model)
    with pytest.raises(ModelFileError, match="There is no file"):
        read_adapter(tmp_path / "none.gguf")
    load_model(model)


def test_another_base(tmp_path: Path) -> None:
    adapter = read_adapter(write(tmp_path, LoraRecipe(rank=2), "peft"))
    with pytest.raises(ModelFileError, match=r"does not fit .*adapter and base must belong together"):
        with_adapter(tiny_model(intermediate_size=64), adapter)
    with pytest.raises(ModelFileError, match=r"changes 'model.layers.1.*does not have so"):
        with_adapter(tiny_model(num_hidden_layers=1), adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'; expected LORA"),
        ({"use_dora": True}, "uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"alpha_pattern": {"q_proj": 4}}, "uses alpha_pattern"),
        ({"bias": "all"}, "uses bias"),
        ({"lora_alpha": "much"}, "lora_alpha must be a number"),
    ],
)
def test_adapters_that_would_be_merged_wrong_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    folder = write(tmp_path, LoraRecipe(rank=2), "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelFileError, match=message):
        read_adapter(folder)


def test_rank_stabilized_scale(tmp_path: Path) -> None:
    folder = write(tmp_path, LoraRecipe(rank=4, alpha=12.0), "peft")
    plain = read_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_allclose(read_adapter(folder).delta(name), plain.delta(name) * 2, rtol=1e-5)


def test_damaged_tensors(tmp_path: Path) -> None:
    folder = write(tmp_path, LoraRecipe(rank=2), "peft")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    first = min(tensors)
    assert first.endswith("lora_A.weight")

    def refused(changed: dict[str, torch.Tensor], message: str) -> None:
        save_file(changed, path)
        with pytest.raises(ModelFileError, match=message):
            read_adapter(folder)

    refused({k: v for k, v in tensors.items() if k != first}, "one of the two matrices beside")
    refused({**tensors, first: tensors[first][:1].contiguous()}, "do not fit each other")
    refused({**tensors, "base_model.model.lm_head.weight": torch.zeros(2, 2)}, "is no LoRA matrix")
    refused({}, "has no LoRA matrices")
    path.unlink()
    with pytest.raises(ModelFileError, match=r"has no adapter_model\.safetensors"):
        read_adapter(folder)


def test_values_that_no_format_holds(tmp_path: Path) -> None:
    folder = write(tmp_path, LoraRecipe(rank=2), "peft")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: torch.full_like(v, torch.nan) for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    merged = with_adapter(tiny_model(), read_adapter(folder))
    with pytest.raises(ModelFileError, match="unusable: a value is infinite or not a number"):
        ReferenceBackend(merged.config, merged.weights)
