"""Training with quantized weights in the forward pass."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.kernels.formats import StorageType, dequantize
from understudy.model.config import NemotronConfig
from understudy.quantization.aware import FakeQuantize, quantization_aware
from understudy.quantization.blocks import ENCODED, encode
from understudy.quantization.plan import Plan, named_plan
from understudy.testing import random_tensors, tiny_config
from understudy.training.model import NemotronLM, from_hf_tensors, to_hf_tensors


def make(config: NemotronConfig) -> NemotronLM:
    model = NemotronLM(config)
    from_hf_tensors(model, {name: torch.from_numpy(t) for name, t in random_tensors(config, seed=2).items()})
    return model


@pytest.mark.parametrize("kind", ENCODED, ids=lambda kind: kind.name)
def test_forward_is_what_the_file_holds_and_the_gradient_goes_through(kind: StorageType) -> None:
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(0), requires_grad=True)
    seen = FakeQuantize([(24, kind, None)], every=1)(weight)
    held = dequantize(encode(weight.detach().numpy(), kind), kind, (24, 256))
    np.testing.assert_allclose(seen.detach().numpy(), held, rtol=1e-5, atol=1e-6)
    seen.backward(torch.arange(24 * 256.0).reshape(24, 256))
    assert torch.equal(weight.grad, torch.arange(24 * 256.0).reshape(24, 256))


def test_between_searches_levels_move_and_scales_stay() -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    fake = FakeQuantize([(4, StorageType.Q8_0, None)], every=3)
    first = fake(weight).clone()
    steps = [tensor.clone() for tensor in fake._scales[0] if tensor is not None]
    weight.mul_(0.5)
    second = fake(weight)
    assert torch.equal(fake._scales[0][0], steps[0])
    assert not torch.equal(first, second)
    weight.mul_(0.5)
    fake(weight)
    weight.mul_(0.5)
    third = fake(weight)
    assert fake._scales[0][0].abs().max() < 0.2 * steps[0].abs().max()
    assert (third - weight).abs().max() < 0.2 * (second - 4 * weight).abs().max()


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_whole_model_computes_as_its_file_would(is_tied: bool) -> None:
    config = tiny_config(hidden_size=256, intermediate_size=256, tie_word_embeddings=is_tied)
    plan = named_plan("q4", config)
    model = make(config)
    ids = torch.arange(40)[None] % config.vocab_size
    parameters = {id(p) for p in model.parameters()}
    before = model(ids)
    with quantization_aware(model, plan):
        inside = model(ids)
        assert {id(p) for p in model.parameters()} == parameters
    stored = {
        name: torch.from_numpy(dequantize(encode(t.numpy(), plan.kinds[name]), plan.kinds[name], tuple(t.shape)))
        if t.dim() == 2
        else t
        for name, t in to_hf_tensors(model).items()
    }
    expected = NemotronLM(config)
    from_hf_tensors(expected, stored)
    torch.testing.assert_close(inside, expected(ids), rtol=1e-4, atol=1e-3)
    assert torch.equal(model(ids), before)
    assert not torch.allclose(inside, before, atol=1e-2)


def divergence(model: NemotronLM, ids: Tensor, goal: Tensor) -> Tensor:
    logits = model(ids).log_softmax(-1)
    return (goal.exp() * (goal - logits)).sum(-1).mean()


def test_distillation_brings_the_quantized_model_back_to_the_16_bit_one() -> None:
    config = tiny_config()
    kinds = {name: StorageType.Q4_0 if kind is not StorageType.F32 else kind for name, kind in q8(config).kinds.items()}
    plan = Plan(name="q4_0", kinds=kinds, file_type=2)
    teacher = make(config)
    student = copy.deepcopy(teacher)
    ids = torch.randint(0, config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        goal = teacher(ids).log_softmax(-1)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    with quantization_aware(student, plan, every=8):
        start = divergence(student, ids, goal).item()
        for _ in range(12):
            optimizer.zero_grad()
            divergence(student, ids, goal).backward()
            optimizer.step()
        end = divergence(student, ids, goal).item()
    assert end < 0.7 * start


def q8(config: NemotronConfig) -> Plan:
    return named_plan("q8", config)
