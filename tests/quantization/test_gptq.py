"""Error feedback on random layers with correlated inputs, and on a tiny model."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from understudy.errors import RecipeError
from understudy.kernels.formats import StorageType, dequantize
from understudy.model.weights import Weight
from understudy.quantization.blocks import ENCODED, encode
from understudy.quantization.calibration import measure_importance
from understudy.quantization.gptq import (
    GptqSettings,
    Hessian,
    factorize,
    feed_back,
    quantize_layers,
)
from understudy.quantization.grid import BlockGrid
from understudy.testing.tiny import tiny_model
from understudy.training.model import NemotronLM, from_hf_tensors

ROWS, COLS = 48, 512


def correlated(num_samples: int, columns: int = COLS, *, seed: int = 0) -> Tensor:
    """Inputs that live near a space of few dimensions, as hidden states do; every seventh column never fires."""
    made = torch.Generator().manual_seed(seed)
    mixing = torch.randn(24, columns, generator=made)
    x = torch.randn(num_samples, 24, generator=made) @ mixing / 24**0.5
    x += 0.3 * torch.randn(num_samples, columns, generator=made)
    x[:, ::7] = 0
    return x


def layer(kind: StorageType) -> tuple[Tensor, Hessian, BlockGrid, Tensor]:
    """Weights, a Hessian, the grid of the range search, and what that search rounded to."""
    weight = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1))
    hessian = Hessian(COLS)
    for part in correlated(2048).split(500):
        hessian.add(part)
    packed = encode(weight.numpy(), kind, hessian.strengths())
    grid = BlockGrid(packed, kind, (ROWS, COLS))
    plain = torch.stack([grid.round(column, weight[:, column].clone())[1] for column in range(COLS)], dim=1)
    return weight, hessian, grid, plain


def error(weight: Tensor, rounded: Tensor, x: Tensor) -> float:
    return float(((x @ (weight - rounded).T) ** 2).mean() / ((x @ weight.T) ** 2).mean())


@pytest.mark.parametrize("kind", ENCODED)
def test_the_output_comes_closer_on_inputs_never_seen(kind: StorageType) -> None:
    weight, hessian, grid, plain = layer(kind)
    x = correlated(2048 + 512)[2048:]  # of the same distribution
    levels, values = feed_back(weight, grid, factorize(hessian))
    assert error(weight, values, x) < 0.6 * error(weight, plain, x)
    np.testing.assert_array_equal(dequantize(grid.pack(levels), kind, (ROWS, COLS)), values.numpy())


def test_neurons_that_never_fired_keep_their_rounded_weights() -> None:
    weight, hessian, grid, plain = layer(StorageType.Q4_K)
    for by_strength, width in ((True, 128), (False, 13)):
        factors = factorize(hessian, GptqSettings(by_strength=by_strength))
        _, values = feed_back(weight, grid, factors, block_columns=width)
        torch.testing.assert_close(values[:, ::7], plain[:, ::7], atol=0, rtol=0)
        assert (values[:, ::7] != 0).float().mean() > 0.8


def test_a_wide_hessian_is_cut_and_still_helps() -> None:
    weight, hessian, grid, plain = layer(StorageType.Q4_K)
    cut = Hessian(COLS, max_columns=200)
    cut.add(correlated(2048))
    assert [s.stop - s.start for s in cut.spans] == [170, 171, 171]
    np.testing.assert_allclose(cut.strengths(), hessian.strengths(), rtol=1e-4)
    x = correlated(2048 + 512)[2048:]
    whole, parts = (error(weight, feed_back(weight, grid, factorize(h))[1], x) for h in (hessian, cut))
    assert whole < parts < error(weight, plain, x)


def test_the_width_of_the_updates_changes_nothing_but_roundings() -> None:
    weight, hessian, grid, _ = layer(StorageType.Q6_K)
    one, other = (feed_back(weight, grid, factorize(hessian), block_columns=n)[0] for n in (64, 512))
    assert (one == other).float().mean() > 0.99


def test_more_damping_where_the_hessian_is_hardly_positive() -> None:
    weight, _, grid, plain = layer(StorageType.Q4_K)
    hessian = Hessian(COLS)
    hessian.add(1e3 * torch.ones(4, COLS))  # one direction only
    (factor,) = factorize(hessian, GptqSettings(damping=1e-9, tries=8))
    assert factor.upper is not None and factor.damping > 1e-9
    (factor,) = factorize(hessian, GptqSettings(damping=1e-9, tries=1))
    assert factor.upper is None
    torch.testing.assert_close(feed_back(weight, grid, (factor,))[1], plain, atol=0, rtol=0)


def test_inputs_that_never_fired_at_all_are_rounded_plainly() -> None:
    weight, _, grid, plain = layer(StorageType.Q4_K)
    hessian = Hessian(COLS)
    hessian.add(torch.zeros(9, COLS))
    torch.testing.assert_close(feed_back(weight, grid, factorize(hessian))[1], plain, atol=0, rtol=0)


@pytest.mark.parametrize("change", [{"damping": 0.0}, {"tries": 0}, {"block_columns": 0}, {"max_columns": 0}])
def test_settings_out_of_range(change: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="must be"):
        GptqSettings(**change)  # type: ignore[arg-type]


def kl(exact: Tensor, other: Tensor) -> float:
    p, q = exact.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def logits_of(found: Mapping[str, Weight], token_ids: Tensor) -> Tensor:
    files = tiny_model(hidden_size=256, intermediate_size=512)
    model = NemotronLM(files.config)
    weights = {**files.weights, **found}
    from_hf_tensors(model, {name: torch.from_numpy(weight.dense()) for name, weight in weights.items()})
    with torch.no_grad():
        return model(token_ids)


@pytest.mark.parametrize("sequential", [True, False])
def test_a_model_comes_closer_to_its_own_logits(sequential: bool) -> None:
    files = tiny_model(hidden_size=256, intermediate_size=512)
    names = [n for n in files.weights if n.endswith(("_proj.weight", "lm_head.weight"))]
    kinds = {name: StorageType.Q4_K for name in names if "o_proj" not in name}  # rows of 64 do not fill its blocks
    kinds |= {name: StorageType.Q4_0 for name in names if "o_proj" in name}
    made = torch.Generator().manual_seed(5)
    batches = [torch.randint(12, 60, (8, 64), generator=made) for _ in range(3)]
    found = {r.name: r for r in quantize_layers(files, batches, kinds, encode, sequential=sequential)}
    assert sorted(found) == sorted(kinds)
    for name, rounded in found.items():
        assert rounded.weight.kind is kinds[name] and rounded.weight.shape == files.weights[name].shape
        assert rounded.error <= rounded.plain_error
    assert sum(r.error for r in found.values()) < 0.8 * sum(r.plain_error for r in found.values())

    channels = measure_importance(files, batches)
    plain = {
        name: Weight(encode(files.weights[name].dense(), kind, channels[name]), kind, files.weights[name].shape)
        for name, kind in kinds.items()
    }
    unseen = torch.randint(12, 60, (8, 64), generator=made)
    exact = logits_of({}, unseen)
    assert kl(exact, logits_of({name: rounded.weight for name, rounded in found.items()}, unseen)) < kl(
        exact, logits_of(plain, unseen)
    )
