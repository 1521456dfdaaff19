import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.model.weights import Weight
from understudy.pruning.importance import Aggregation, Importance, load_importance, measure_importance
from understudy.testing import tiny_model
from understudy.training.streaming import LayerWalk, walk_layers

F64 = npt.NDArray[np.float64]
REDUCTIONS = ("mean", "l2", "var")


def reduce(values: F64, kind: str, axis: int) -> F64:
    """A reduction of plain NumPy over one axis of whole activations."""
    if kind == "mean":
        return np.abs(values).mean(axis)
    return np.sqrt((values**2).sum(axis)) if kind == "l2" else values.var(axis)


@pytest.fixture(scope="module")
def activations(files: LoadedModel, batches: list[Tensor]) -> dict[str, list[F64]]:
    """Whole activations (samples, T, units) by axis and group."""
    kept: dict[str, list[list[F64]]] = {
        "heads": [[], [], []],
        "neurons": [[], [], []],
        "channels": [[] for _ in "123456"],
    }
    for r in walk_layers(files, batches):
        if isinstance(r, LayerWalk):
            heads = r.heads.double().numpy().reshape(*r.heads.shape[:2], 8, 8)
            kept["heads"][r.layer].append(np.sqrt((heads**2).sum(-1)))
            kept["neurons"][r.layer].append(r.neurons.double().numpy())
            kept["channels"][2 * r.layer].append(r.attention_input.double().numpy())
            kept["channels"][2 * r.layer + 1].append(r.mlp_input.double().numpy())
    return {axis: [np.concatenate(parts) for parts in groups] for axis, groups in kept.items()}


@pytest.mark.parametrize("batch", REDUCTIONS)
@pytest.mark.parametrize("sequence", REDUCTIONS)
def test_all_nine_aggregations(
    importance: Importance, activations: dict[str, list[F64]], batch: str, sequence: str
) -> None:
    aggregation = Aggregation(batch=batch, sequence=sequence)  # type: ignore[arg-type]
    expected = {a: np.stack([reduce(reduce(x, sequence, 1), batch, 0) for x in xs]) for a, xs in activations.items()}
    close = {"rtol": 1e-4, "atol": 1e-7}
    np.testing.assert_allclose(importance.head_scores(aggregation).numpy(), expected["heads"], **close)
    np.testing.assert_allclose(importance.neuron_scores(aggregation).numpy(), expected["neurons"], **close)
    np.testing.assert_allclose(importance.channel_scores(aggregation).numpy(), expected["channels"].sum(0), **close)


def test_the_default_is_the_papers_best(importance: Importance) -> None:
    named = Aggregation(batch="l2", sequence="mean")
    assert torch.equal(importance.neuron_scores(), importance.neuron_scores(named))
    assert not torch.allclose(importance.neuron_scores(), importance.neuron_scores(Aggregation(batch="mean")))


def test_block_importance(files: LoadedModel, batches: list[Tensor], importance: Importance) -> None:
    turned: list[list[F64]] = [[], [], []]
    for r in walk_layers(files, batches):
        if isinstance(r, LayerWalk):
            x, y = r.before.double().numpy(), r.after.double().numpy()
            cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
            turned[r.layer].append(1 - cosine.ravel())
    np.testing.assert_allclose(importance.layers.numpy(), [np.concatenate(t).mean() for t in turned], rtol=1e-5)


def test_it_is_deterministic_and_does_not_depend_on_the_batching(
    files: LoadedModel, batches: list[Tensor], importance: Importance
) -> None:
    again = measure_importance(files, batches)
    assert torch.equal(importance.neurons.square_sum, again.neurons.square_sum)
    assert torch.equal(importance.layers, again.layers)
    single = measure_importance(files, [row[None] for ids in batches for row in ids])
    for kind in REDUCTIONS:
        aggregation = Aggregation(batch=kind)  # type: ignore[arg-type]
        assert torch.allclose(importance.channel_scores(aggregation), single.channel_scores(aggregation), rtol=1e-4)
    assert single.num_samples == importance.num_samples == 5
    assert single.num_tokens == importance.num_tokens == 60


def test_a_saved_record_comes_back(files: LoadedModel, importance: Importance, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "importance.safetensors"
    importance.save(path)
    loaded = load_importance(path, files)
    for axis in ("heads", "neurons", "channels"):
        assert torch.equal(getattr(loaded, axis).mean, getattr(importance, axis).mean)
        assert torch.equal(getattr(loaded, axis).square_sum, getattr(importance, axis).square_sum)
    assert torch.equal(loaded.layers, importance.layers)
    facts = [f.name for f in dataclasses.fields(Importance) if f.name not in ("heads", "neurons", "channels", "layers")]
    assert [getattr(loaded, f) for f in facts] == [getattr(importance, f) for f in facts]
    assert [p.name for p in path.parent.iterdir()] == ["importance.safetensors"]


def test_a_record_of_another_model_is_refused(importance: Importance, tmp_path: Path) -> None:
    importance.save(tmp_path / "i.safetensors")
    with pytest.raises(DataError, match="measure it on this model"):
        load_importance(tmp_path / "i.safetensors", tiny_model())
    (tmp_path / "junk").write_bytes(b"junk" * 9)
    with pytest.raises(DataError, match="no readable importance file"):
        load_importance(tmp_path / "junk", tiny_model())
    with pytest.raises(DataError, match="no readable importance file"):
        load_importance(tmp_path / "none", tiny_model())


def test_progress_is_told(files: LoadedModel, batches: list[Tensor]) -> None:
    told: list[tuple[int, int]] = []
    measure_importance(files, batches, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 6) for n in range(1, 7)]


def test_bad_input_is_one_sentence(files: LoadedModel, batches: list[Tensor]) -> None:
    with pytest.raises(DataError, match="at least one"):
        measure_importance(files, [])
    with pytest.raises(DataError, match="batch must be one of mean, l2, var"):
        Aggregation(batch="max")  # type: ignore[arg-type]
    name = "model.layers.1.mlp.up_proj.weight"
    broken = {**files.weights, name: Weight.from_array(np.full(files.weights[name].shape, np.nan, np.float32))}
    with pytest.raises(DataError, match="not finite"):
        measure_importance(dataclasses.replace(files, weights=broken), batches)
