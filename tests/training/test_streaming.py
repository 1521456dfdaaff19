import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.weights import Weight
from understudy.testing.tiny import tiny_model
from understudy.training.folder import read_lm, write_folder
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.streaming import FinalWalk, LayerStreamer, LayerWalk, walk_layers


@pytest.fixture(scope="module")
def files() -> LoadedModel:
    return tiny_model(seed=4, num_hidden_layers=3)


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randint(0, 268, shape) for shape in ((2, 13), (3, 7))]


def whole(files: LoadedModel) -> NemotronLM:
    model = NemotronLM(files.config)
    from_hf_tensors(model, {name: torch.from_numpy(w.dense()) for name, w in files.weights.items()})
    return model


def watch(model: NemotronLM, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of every module of a whole forward pass, and the normed states."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        return lambda module, inputs: seen.__setitem__(name, inputs[0].clone())

    hooks = [m.register_forward_pre_hook(keep(name)) for name, m in model.named_modules() if name]
    with torch.no_grad():
        states = model.hidden(ids)
    for hook in hooks:
        hook.remove()
    return seen, states


def test_the_walk_equals_the_whole_forward(files: LoadedModel, batches: list[Tensor]) -> None:
    seen = [watch(whole(files), ids) for ids in batches]
    records = list(walk_layers(files, batches))
    order = [(r.layer, r.batch) if isinstance(r, LayerWalk) else ("end", r.batch) for r in records]
    assert order == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), ("end", 0), ("end", 1)]
    for record in records:
        inputs, states = seen[record.batch]
        if isinstance(record, FinalWalk):
            assert torch.equal(record.before, inputs["norm"])
            assert torch.equal(record.states, states)
            continue
        layer = f"layers.{record.layer}"
        following = f"layers.{record.layer + 1}" if record.layer < 2 else "norm"
        assert torch.equal(record.before, inputs[f"{layer}.input_layernorm"])
        assert torch.equal(record.attention_input, inputs[f"{layer}.qkv_proj"])
        assert torch.equal(record.heads, inputs[f"{layer}.o_proj"])
        assert torch.equal(record.mlp_input, inputs[f"{layer}.up_proj"])
        assert torch.equal(record.neurons, inputs[f"{layer}.down_proj"])
        assert torch.equal(record.after, inputs[following])


def test_the_walk_reads_a_folder(files: LoadedModel, batches: list[Tensor], tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(w.dense()) for name, w in files.weights.items()}
    write_folder(tmp_path, files.config, tensors, files.tokenizer)
    model, stored = read_lm(tmp_path)
    last = [r for r in walk_layers(stored, batches) if isinstance(r, FinalWalk)]
    for record, ids in zip(last, batches, strict=True):
        assert torch.equal(model.lm_head(record.states), model(ids))


def test_changing_a_record_changes_nothing_else(files: LoadedModel, batches: list[Tensor]) -> None:
    undisturbed = list(walk_layers(files, batches))[-1]
    last = undisturbed
    for record in walk_layers(files, batches):
        last = record
        for field in dataclasses.fields(record):
            if isinstance(value := getattr(record, field.name), Tensor):
                value.zero_()
    assert isinstance(undisturbed, FinalWalk)
    assert isinstance(last, FinalWalk)
    assert undisturbed.states.abs().sum() > 0


def test_gradients_stay_switched_on_for_the_caller(files: LoadedModel, batches: list[Tensor]) -> None:
    for record in walk_layers(files, batches):
        assert torch.is_grad_enabled()
        assert not record.before.requires_grad


def test_bfloat16_streams_are_close(files: LoadedModel, batches: list[Tensor]) -> None:
    exact = list(walk_layers(files, batches))[-1]
    rounded = list(walk_layers(files, batches, keep_dtype=torch.bfloat16))[-1]
    assert isinstance(exact, FinalWalk)
    assert isinstance(rounded, FinalWalk)
    assert not torch.equal(exact.states, rounded.states)
    assert torch.allclose(exact.states, rounded.states, atol=0.1)


class ReadOnDemand(dict[str, Weight]):
    """Weights that note when they are read."""

    def __init__(self, weights: dict[str, Weight]) -> None:
        super().__init__(weights)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Weight:
        self.read.append(name)
        return super().__getitem__(name)


def test_a_layer_is_read_when_its_turn_comes(files: LoadedModel, batches: list[Tensor]) -> None:
    weights = ReadOnDemand(dict(files.weights))
    walk: Iterator[LayerWalk | FinalWalk] = walk_layers(dataclasses.replace(files, weights=weights), batches)
    for record in walk:
        if isinstance(record, LayerWalk):
            layers = {int(name.split(".")[2]) for name in weights.read if ".layers." in name}
            assert max(layers) == record.layer
    assert "lm_head.weight" not in weights.read
    assert len([name for name in weights.read if ".layers." in name]) == 3 * 10


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.tensor([[1, 268]]), "1 to 268, but the model knows 0 to 267"),
        (torch.tensor([[-1, 2]]), "-1 to 2"),
        (torch.tensor([1, 2]), "rows, tokens"),
        (torch.zeros((0, 4), dtype=torch.long), "rows, tokens"),
    ],
)
def test_batches_are_checked(files: LoadedModel, ids: Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        next(walk_layers(files, [ids]))


def test_a_streamer_reuses_its_memory(files: LoadedModel) -> None:
    streamer = LayerStreamer(files)
    first = streamer.load_layer(0).up_proj.weight
    copy = first.clone()
    second = streamer.load_layer(1).up_proj.weight
    assert second.data_ptr() == first.data_ptr()
    assert not torch.equal(copy, second)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
def test_a_walked_file_does_not_stay_in_memory(tmp_path: Path) -> None:
    model = tiny_model(num_hidden_layers=6, hidden_size=128, intermediate_size=1024)
    write_gguf(tmp_path / "model.gguf", model.config, model.weights, model.tokenizer.definition, None, file_type="f16")
    files = load_model(tmp_path / "model.gguf")
    resident = []
    for record in walk_layers(files, [torch.randint(0, 200, (1, 8))]):
        if isinstance(record, LayerWalk):
            maps = Path("/proc/self/smaps").read_text().split("model.gguf")[1:]
            resident.append(sum(int(re.findall(r"Rss: +(\d+) kB", part)[0]) for part in maps))
    assert len(resident) == 6
    assert resident[-1] <= resident[0] + 256, resident  # kB; a layer has some 600
