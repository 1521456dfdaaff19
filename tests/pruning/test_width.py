import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from understudy.errors import RecipeError
from understudy.model.checkpoint import LoadedModel
from understudy.model.tensor_names import expected_shapes
from understudy.model.weights import Weight
from understudy.pruning.importance import Importance, measure_importance
from understudy.pruning.tensors import stored_tensors
from understudy.pruning.width import WidthOrder, WidthTarget, order_by_importance, prune_width, random_order

if TYPE_CHECKING:
    from conftest import Logits

HALF = WidthTarget(hidden_size=32, intermediate_size=36, num_attention_heads=4, merge_heads=False)


@pytest.fixture(scope="module")
def tensors(files: LoadedModel) -> dict[str, Tensor]:
    return dict(stored_tensors(files))


@pytest.fixture(scope="module")
def order(files: LoadedModel, importance: Importance) -> WidthOrder:
    return order_by_importance(importance, files.config)


def identity(order: WidthOrder) -> WidthOrder:
    """The order of a model that was sorted by `order`."""
    layers, groups, rep = order.heads.shape
    return WidthOrder(
        heads=torch.arange(groups * rep).view(1, groups, rep).expand(layers, -1, -1),
        neurons=torch.arange(order.neurons.shape[1]).expand(layers, -1),
        channels=torch.arange(len(order.channels)),
    )


def test_full_size_changes_nothing(files: LoadedModel, tensors: dict[str, Tensor], order: WidthOrder) -> None:
    target = WidthTarget(hidden_size=64, intermediate_size=96, num_attention_heads=8)
    same, config = prune_width(tensors, files.config, order, target)
    assert config == files.config
    assert all(torch.equal(same[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("axis", ["hidden_size", "intermediate_size", "num_attention_heads"])
def test_shapes_are_those_of_the_smaller_model(
    files: LoadedModel, tensors: dict[str, Tensor], order: WidthOrder, axis: str, logits: "Logits"
) -> None:
    target = WidthTarget(**{axis: getattr(files.config, axis) // 2})
    smaller, config = prune_width(tensors, files.config, order, target)
    assert getattr(config, axis) * 2 == getattr(files.config, axis)
    assert {n: tuple(t.shape) for n, t in smaller.items()} == expected_shapes(config)
    assert logits(smaller, config).isfinite().all()


def test_smaller_models_are_prefixes(files: LoadedModel, tensors: dict[str, Tensor], order: WidthOrder) -> None:
    middle = WidthTarget(hidden_size=48, intermediate_size=64, num_attention_heads=6, merge_heads=False)
    first, config = prune_width(tensors, files.config, order, middle)
    sorted_order = identity(order)
    rest = WidthOrder(
        heads=torch.arange(6).view(1, 2, 3).expand(3, -1, -1),
        neurons=sorted_order.neurons[:, :64],
        channels=sorted_order.channels[:48],
    )
    twice, _ = prune_width(dict(first), config, rest, HALF)
    once, _ = prune_width(tensors, files.config, order, HALF)
    assert all(torch.equal(twice[name], once[name]) for name in tensors)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(first[name][:36, :32], once[name])


def test_the_important_stay(files: LoadedModel, tensors: dict[str, Tensor], importance: Importance) -> None:
    order = order_by_importance(importance, files.config)
    scores = importance.neuron_scores()
    smaller, _ = prune_width(tensors, files.config, order, WidthTarget(intermediate_size=10))
    best = scores[2].topk(10).indices
    assert torch.equal(smaller["model.layers.2.mlp.up_proj.weight"], tensors["model.layers.2.mlp.up_proj.weight"][best])
    best = importance.channel_scores().topk(5).indices
    smaller, _ = prune_width(tensors, files.config, order, WidthTarget(hidden_size=5))
    assert torch.equal(smaller["model.norm.bias"], tensors["model.norm.bias"][best])
    assert torch.equal(smaller["lm_head.weight"], tensors["lm_head.weight"][:, best])


def test_neurons_of_no_importance_are_not_missed(
    files: LoadedModel, tensors: dict[str, Tensor], batches: list[Tensor], logits: "Logits"
) -> None:
    """MLPs of whole numbers, whose sums are exact in any order: the logits are the same to the last bit."""
    silent = [3, 40, 41, 77]
    generator = torch.Generator().manual_seed(9)
    whole = dict(tensors)
    for layer in range(3):
        prefix = f"model.layers.{layer}"
        whole[f"{prefix}.post_attention_layernorm.weight"] = torch.full((64,), -1.0)  # a gain of 0: only the bias
        for name, size in (
            ("post_attention_layernorm.bias", 2),
            ("mlp.up_proj.weight", 1),
            ("mlp.down_proj.weight", 1),
        ):
            shape = tensors[f"{prefix}.{name}"].shape
            whole[f"{prefix}.{name}"] = torch.randint(-size, size + 1, shape, generator=generator).float()
        whole[f"{prefix}.mlp.up_proj.weight"][silent] = 0.0
    model = dataclasses.replace(files, weights={name: Weight.from_array(t.numpy()) for name, t in whole.items()})
    importance = measure_importance(model, batches)
    for layer, active in enumerate((importance.neuron_scores() > 0).sum(1).tolist()):
        assert 0 < active <= 92, layer
    order = order_by_importance(importance, files.config)
    smaller, config = prune_width(whole, files.config, order, WidthTarget(intermediate_size=92))
    assert torch.equal(logits(smaller, config), logits(whole, files.config))
    too_small, config = prune_width(whole, files.config, order, WidthTarget(intermediate_size=8))
    assert not torch.equal(logits(too_small, config), logits(whole, files.config))


def test_silent_heads_are_not_missed(
    files: LoadedModel, tensors: dict[str, Tensor], order: WidthOrder, logits: "Logits"
) -> None:
    muted = {name: t.clone() for name, t in tensors.items()}
    for layer in range(3):
        for head in order.heads[layer, :, 3].tolist():
            muted[f"model.layers.{layer}.self_attn.o_proj.weight"][:, head * 8 : head * 8 + 8] = 0.0
    target = WidthTarget(num_attention_heads=6, merge_heads=False)
    smaller, config = prune_width(muted, files.config, order, target)
    assert torch.allclose(logits(smaller, config), logits(muted, files.config), rtol=0, atol=2e-5)


def test_every_kv_group_stays_and_keeps_its_best_heads(
    files: LoadedModel, tensors: dict[str, Tensor], importance: Importance
) -> None:
    order = order_by_importance(importance, files.config)
    target = WidthTarget(num_attention_heads=4, merge_heads=False)
    smaller, config = prune_width(tensors, files.config, order, target)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    for layer in range(3):
        prefix = f"model.layers.{layer}.self_attn"
        for kept in ("k_proj", "v_proj"):
            assert torch.equal(smaller[f"{prefix}.{kept}.weight"], tensors[f"{prefix}.{kept}.weight"])
        scores = importance.head_scores()[layer]
        heads = [*scores[:4].topk(2).indices.tolist(), *(4 + scores[4:].topk(2).indices).tolist()]
        query = tensors[f"{prefix}.q_proj.weight"].view(8, 8, 64)[heads].reshape(32, 64)
        output = tensors[f"{prefix}.o_proj.weight"].view(64, 8, 8)[:, heads].reshape(64, 32)
        assert torch.equal(smaller[f"{prefix}.q_proj.weight"], query)
        assert torch.equal(smaller[f"{prefix}.o_proj.weight"], output)


@pytest.mark.parametrize(
    ("kept", "partners"),
    [
        (3, {2: 3}),  # of four, the least important kept one meets the dropped one
        (2, {0: 3, 1: 2}),
        (1, {0: 1}),  # two dropped ones have no partner
    ],
)
def test_dropped_heads_are_merged(
    files: LoadedModel, tensors: dict[str, Tensor], order: WidthOrder, kept: int, partners: dict[int, int]
) -> None:
    merged, _ = prune_width(tensors, files.config, order, WidthTarget(num_attention_heads=2 * kept))
    plain, _ = prune_width(tensors, files.config, order, WidthTarget(num_attention_heads=2 * kept, merge_heads=False))
    differing = {name for name in tensors if not torch.equal(merged[name], plain[name])}
    assert differing == {f"model.layers.{n}.self_attn.q_proj.weight" for n in range(3)}
    for layer in range(3):
        name = f"model.layers.{layer}.self_attn.q_proj.weight"
        heads = tensors[name].view(8, 8, 64)
        for group in range(2):
            for place in range(kept):
                numbers = order.heads[layer, group]
                expected = heads[numbers[place]]
                if place in partners:
                    expected = 2 * expected - heads[numbers[partners[place]]]
                assert torch.allclose(merged[name].view(2 * kept, 8, 64)[group * kept + place], expected)


def test_random_orders_are_seeded(files: LoadedModel) -> None:
    first, again, other = (random_order(files.config, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.channels, again.channels)
    assert torch.equal(first.neurons, again.neurons)
    assert not torch.equal(first.channels, other.channels)
    assert torch.equal(first.channels.sort().values, torch.arange(64))
    assert torch.equal(first.heads.flatten(1).sort(1).values, torch.arange(8).expand(3, -1))
    assert (first.heads // 4 == torch.arange(2)[None, :, None]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 65}, "more than the model has"),
        ({"num_attention_heads": 5}, "multiple of the model's 2 KV heads"),
        ({"intermediate_size": 90, "multiple_of": 16}, "intermediate_size 90 must be a multiple of 16"),
        ({"num_attention_heads": 6, "multiple_of": 32}, "head_dim 48 must be a multiple of 32"),
        ({"hidden_size": 0}, "at least 1"),
    ],
)
def test_bad_sizes_are_one_sentence(
    files: LoadedModel, tensors: dict[str, Tensor], order: WidthOrder, changes: dict[str, int], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        prune_width(tensors, files.config, order, WidthTarget(**changes))


def test_an_order_of_another_model_is_refused(files: LoadedModel, tensors: dict[str, Tensor]) -> None:
    other = random_order(dataclasses.replace(files.config, hidden_size=32), seed=0)
    with pytest.raises(RecipeError, match="measure importance on this model"):
        prune_width(tensors, files.config, other, HALF)
