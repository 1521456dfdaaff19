import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.errors import DataError, RecipeError
from understudy.model.checkpoint import LoadedModel
from understudy.model.tensor_names import expected_shapes
from understudy.pruning.depth import choose_layers, layer_runs, losses_without, prune_depth
from understudy.pruning.tensors import stored_tensors
from understudy.testing import tiny_model

if TYPE_CHECKING:
    from conftest import Logits


def test_the_best_layers_stay() -> None:
    scores = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.8])
    assert choose_layers(scores, keep=3) == [0, 2, 4]
    assert choose_layers(scores, keep=3, contiguous=True) == [0, 3, 4]  # layers 1 and 2 together weigh 0.6
    assert choose_layers(scores, keep=2, contiguous=True) == [0, 4]
    assert choose_layers(scores, keep=5, contiguous=True) == choose_layers(scores, keep=5) == [0, 1, 2, 3, 4]
    assert choose_layers(torch.ones(4), keep=2) == [0, 1]
    for keep in (0, 6):
        with pytest.raises(RecipeError, match="from 1 to 5"):
            choose_layers(scores, keep=keep)


def test_layers_are_left_out_and_renumbered(files: LoadedModel, logits: "Logits") -> None:
    tensors = stored_tensors(files)
    smaller, config = prune_depth(tensors, files.config, [0, 2])
    assert config == dataclasses.replace(files.config, num_hidden_layers=2)
    assert {n: tuple(t.shape) for n, t in smaller.items()} == expected_shapes(config)
    name = "self_attn.o_proj.weight"
    assert torch.equal(smaller[f"model.layers.1.{name}"], tensors[f"model.layers.2.{name}"])
    assert torch.equal(smaller["lm_head.weight"], tensors["lm_head.weight"])
    assert not torch.allclose(logits(smaller, config), logits(tensors, files.config))
    whole, config = prune_depth(tensors, files.config, [0, 1, 2])
    assert torch.equal(logits(whole, config), logits(tensors, files.config))


def test_a_layer_that_adds_nothing_is_not_missed(files: LoadedModel, logits: "Logits") -> None:
    muted = dict(stored_tensors(files))
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        muted[f"model.layers.1.{name}.weight"] = torch.zeros_like(muted[f"model.layers.1.{name}.weight"])
    smaller, config = prune_depth(muted, files.config, [0, 2])
    assert torch.equal(logits(smaller, config), logits(muted, files.config))


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [0, 3], [-1, 0]])
def test_bad_layers_are_one_sentence(files: LoadedModel, kept: list[int]) -> None:
    with pytest.raises(RecipeError, match="ascending numbers from 0 to 2"):
        prune_depth(stored_tensors(files), files.config, kept)


@pytest.mark.parametrize("tied", [False, True])
def test_losses_equal_those_of_the_smaller_models(batches: list[Tensor], logits: "Logits", tied: bool) -> None:
    files = tiny_model(seed=8, num_hidden_layers=4, tie_word_embeddings=tied)
    targets = torch.cat([ids[:, 1:] for ids in batches])

    def loss(kept: list[int]) -> float:
        smaller, config = prune_depth(stored_tensors(files), files.config, kept)
        return float(F.cross_entropy(logits(smaller, config)[:, :-1].flatten(0, 1), targets.flatten()))

    skips = [*layer_runs(4, 1), *layer_runs(4, 2), frozenset({0, 3})]
    whole, without = losses_without(files, batches, skips)
    assert whole == pytest.approx(loss([0, 1, 2, 3]), rel=1e-5)
    expected = [loss([n for n in range(4) if n not in skip]) for skip in skips]
    assert without.tolist() == pytest.approx(expected, rel=1e-5)


def test_runs() -> None:
    assert layer_runs(3, 2) == [frozenset({0, 1}), frozenset({1, 2})]


def test_bad_requests_are_one_sentence(files: LoadedModel, batches: list[Tensor]) -> None:
    for skip in (frozenset[int](), frozenset({3})):
        with pytest.raises(RecipeError, match="from 0 to 2, none empty"):
            losses_without(files, batches, [skip])
    with pytest.raises(DataError, match="at least two tokens"):
        losses_without(files, [batches[0][:, :1]], layer_runs(3, 1))
