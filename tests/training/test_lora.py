import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from understudy.model.gguf_reader import read_gguf
from understudy.testing import random_tensors, tiny_config, tiny_model
from understudy.training.lora import (
    LoraLinear,
    adapter_state,
    attach_lora,
    hash_weights,
    merge_lora,
    named_adapters,
)
from understudy.training.lora_files import write_gguf_adapters, write_peft_folder
from understudy.training.model import NemotronLM, from_hf_tensors, to_hf_tensors
from understudy.training.recipe import LORA_MODULES, LoraRecipe

RECIPE = LoraRecipe(rank=4, alpha=12.0)
IDS = torch.randint(12, 268, (2, 30), generator=torch.Generator().manual_seed(1))


def base_model() -> NemotronLM:
    config = tiny_config()
    model = NemotronLM(config)
    from_hf_tensors(model, {name: torch.from_numpy(t) for name, t in random_tensors(config, seed=6).items()})
    return model


def with_random_adapters(recipe: LoraRecipe = RECIPE) -> NemotronLM:
    torch.manual_seed(7)
    model = base_model()
    attach_lora(model, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_b." in name:
                parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize("modules", [LORA_MODULES, ("q_proj", "v_proj"), ("k_proj", "down_proj")])
def test_new_adapters_change_nothing_and_the_base_is_frozen(modules: tuple[str, ...]) -> None:
    plain, model = base_model(), base_model()
    recipe = dataclasses.replace(RECIPE, modules=modules)
    attach_lora(model, recipe)
    assert torch.equal(model(IDS), plain(IDS))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(adapter_state(model)) and len(trained) == 2 * 2 * len(modules)
    model.loss_sum(IDS, torch.ones(2, 29)).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == trained
    assert all(g.abs().max() > 0 for name, g in gradients.items() if ".lora_b." in name)


def test_the_size_of_adapters() -> None:
    model = base_model()
    attach_lora(model, RECIPE)
    shapes = {name: tuple(t.shape) for name, t in to_hf_tensors(model).items()}
    expected = sum(4 * sum(shapes[name]) for name in named_adapters(adapter_state(model)))
    assert sum(t.numel() for t in adapter_state(model).values()) == expected


@torch.no_grad()
@pytest.mark.parametrize("modules", [LORA_MODULES, ("k_proj",)])
def test_a_merged_model_computes_what_the_adapters_did(modules: tuple[str, ...]) -> None:
    model = with_random_adapters(dataclasses.replace(RECIPE, modules=modules))
    before, plain = model(IDS), base_model()(IDS)
    assert (before - plain).abs().max() > 0.05
    tensors = to_hf_tensors(model)
    merge_lora(model)
    assert not any(isinstance(module, LoraLinear) for module in model.modules()) and not adapter_state(model)
    assert (model(IDS) - before).abs().max() < 1e-5 * before.abs().max()
    again = NemotronLM(model.config)
    from_hf_tensors(again, tensors)
    assert torch.equal(again(IDS), model(IDS))


def test_adapters_train() -> None:
    model = with_random_adapters()
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(15):
        loss = model.loss_sum(IDS, torch.ones(2, 29)) / 58
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert len(frozen) == 20 and all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())


def test_a_hash_tells_models_apart() -> None:
    assert hash_weights(tiny_model(seed=1)) == hash_weights(tiny_model(seed=1)) != hash_weights(tiny_model(seed=2))


@torch.no_grad()
def test_files_hold_what_was_trained(tmp_path: Path) -> None:
    """Base plus scaled B A from the files' own words, as peft and llama.cpp put them together."""
    recipe = dataclasses.replace(RECIPE, modules=("q_proj", "k_proj", "o_proj", "up_proj"))
    model = with_random_adapters(recipe)
    before = model(IDS)
    adapters = named_adapters(adapter_state(model))
    write_peft_folder(tmp_path / "peft", adapters, recipe, base="tiny", metadata={"understudy.base": "abc"})
    write_gguf_adapters(tmp_path / "adapters.gguf", adapters, recipe, metadata={"general.name": "tiny"})
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text(encoding="utf-8"))
    stored = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * 4
    tensors = to_hf_tensors(base_model())
    for name, a in stored.items():
        stem, marker, _ = name.rpartition(".lora_A.")
        if marker:
            target = stem.removeprefix("base_model.model.") + ".weight"
            tensors[target] = tensors[target] + stored[f"{stem}.lora_B.weight"] @ a * (
                config["lora_alpha"] / config["r"]
            )
    rebuilt = base_model()
    from_hf_tensors(rebuilt, tensors)
    assert (rebuilt(IDS) - before).abs().max() < 1e-5 * before.abs().max()

    file = read_gguf(tmp_path / "adapters.gguf")
    wanted = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 12.0, "general.name": "tiny"}
    assert wanted.items() <= file.metadata.items()
    assert len(file.tensors) == 2 * 2 * 4
    for short, long in (("blk.1.attn_k", "layers.1.self_attn.k_proj"), ("blk.0.ffn_up", "layers.0.mlp.up_proj")):
        for letter in "ab":
            expected = stored[f"base_model.model.model.{long}.lora_{letter.upper()}.weight"].numpy()
            assert np.array_equal(file.tensors[f"{short}.weight.lora_{letter}"].dense(), expected)
