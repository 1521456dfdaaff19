import numpy as np
import pytest
import torch

from understudy.data.dialogues import EncodedDialogues
from understudy.errors import DataError
from understudy.testing import random_tensors, tiny_config
from understudy.training.model import NemotronLM, from_hf_tensors, rotary_tables
from understudy.training.packing import PackedDialogues, pack_sizes
from understudy.training.segments import Segments, find_segments


def some_dialogues(sizes: list[int]) -> EncodedDialogues:
    rng = np.random.default_rng(len(sizes))
    total = sum(sizes)
    targets = rng.random(total) < 0.4
    targets[np.cumsum(sizes) - 1] = True
    return EncodedDialogues(
        rng.integers(12, 268, total).astype(np.uint16), targets, np.cumsum([0, *sizes], dtype=np.int64)
    )


@pytest.fixture(scope="module")
def model() -> NemotronLM:
    config = tiny_config()
    out = NemotronLM(config)
    from_hf_tensors(out, {name: torch.from_numpy(t) for name, t in random_tensors(config, seed=4).items()})
    return out.eval()


@torch.no_grad()
def test_a_packed_dialogue_is_read_as_if_it_were_alone(model: NemotronLM) -> None:
    dialogues = some_dialogues([40, 31, 22, 9, 57])
    packed = PackedDialogues(dialogues, np.arange(5), length=80)
    ids, _, documents = packed.lay(range(packed.num_rows))
    logits = model(torch.from_numpy(ids[:, :-1]), torch.from_numpy(documents))
    compared = 0
    for row, column in [(r, c) for r in range(len(ids)) for c in range(documents.shape[1])]:
        begins = column == 0 or documents[row, column] != documents[row, column - 1]
        if not begins:
            continue
        size = int((documents[row] == documents[row, column]).sum())
        alone = model(torch.from_numpy(ids[row : row + 1, column : column + size]))[0]
        assert (logits[row, column : column + size] - alone).abs().max() < 1e-5
        compared += 1
    assert compared >= 5


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_a_neighbour_changes_nothing_at_all(model: NemotronLM, masked: bool) -> None:
    """Documents one by one, as on CPUs, and whole rows with a mask, as on GPUs."""
    documents = torch.tensor([[0] * 20 + [1] * 25 + [2] * 15, [0] * 60])
    segments = find_segments(documents)
    if masked:
        alike = documents[:, :, None] == documents[:, None]
        segments = Segments(positions=segments.positions, sizes=None, mask=alike.tril()[:, None])
    cos, sin = (table[segments.positions] for table in rotary_tables(model.config, 60, torch.device("cpu")))
    x = torch.randn(2, 60, 64, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[0, :20] = 7.0
    other[0, 45:] = -3.0
    out, changed = (model.layers[0](value, cos, sin, segments) for value in (x, other))
    assert torch.equal(out[0, 20:45], changed[0, 20:45]) and torch.equal(out[1], changed[1])
    assert not torch.equal(out[0, 45:], changed[0, 45:])


def test_masked_rows_and_single_documents_agree(model: NemotronLM) -> None:
    documents = torch.tensor([[0] * 20 + [1] * 25 + [2] * 15])
    one_by_one = find_segments(documents)
    assert one_by_one.sizes == [20, 25, 15]
    assert one_by_one.positions[0].tolist() == [*range(20), *range(25), *range(15)]
    mask = (documents[:, :, None] == documents[:, None]).tril()[:, None]
    whole = Segments(positions=one_by_one.positions, sizes=None, mask=mask)
    cos, sin = (table[one_by_one.positions] for table in rotary_tables(model.config, 60, torch.device("cpu")))
    x = torch.randn(1, 60, 64, generator=torch.Generator().manual_seed(2))
    a, b = (model.layers[0](x, cos, sin, segments) for segments in (one_by_one, whole))
    assert (a - b).abs().max() < 1e-5


def test_the_loss_of_a_row_is_that_of_its_dialogues(model: NemotronLM) -> None:
    dialogues = some_dialogues([30, 25, 18])
    ids, weights, documents = (
        torch.from_numpy(x) for x in PackedDialogues(dialogues, np.arange(3), length=90, prompt_weight=0.1).lay([0])
    )
    packed = model.loss_sum(ids, weights, documents)
    gradient = torch.autograd.grad(packed, list(model.parameters()))
    single = torch.zeros(())
    for start, end in zip(dialogues.offsets[:-1], dialogues.offsets[1:], strict=True):
        own = torch.from_numpy(dialogues.token_ids[start:end].astype(np.int64))[None]
        spoken = torch.from_numpy(dialogues.targets[start + 1 : end])[None]
        single = single + model.loss_sum(own, torch.where(spoken, 1.0, 0.1))
    assert torch.allclose(packed, single, rtol=1e-5)
    for a, b in zip(gradient, torch.autograd.grad(single, list(model.parameters())), strict=True):
        assert (a - b).abs().max() < 1e-4 * max(1.0, float(b.abs().max()))


def test_rows_are_full_and_hold_every_dialogue_once() -> None:
    sizes = np.random.default_rng(5).integers(20, 300, 400)
    rows = pack_sizes(sizes, 513)
    assert sorted(i for row in rows for i in row) == list(range(400))
    fill = [int(sizes[row].sum()) for row in rows]
    assert max(fill) <= 513
    assert len(rows) <= -(-int(sizes.sum()) // 513) + 1  # one row more than the least there could be, at most


def test_every_epoch_shows_each_dialogue_once_in_another_order() -> None:
    dialogues = some_dialogues([30, 40, 50, 20, 25, 35, 45, 60])
    packed = PackedDialogues(dialogues, np.arange(8), length=64, pad=0, seed=(3,))
    epochs = [packed.draw(e * packed.num_rows, packed.num_rows)[0] for e in range(3)]
    contents = [sorted(row[row > 0].tolist() for row in epoch) for epoch in epochs]
    assert contents[0] == contents[1] == contents[2]
    assert not all(np.array_equal(epochs[0], e) for e in epochs[1:])
    # a step that spans two epochs sees the end of one and the beginning of the next
    ids = packed.draw(packed.num_rows - 1, 2)[0]
    assert [r[r > 0].tolist() for r in ids] == [r[r > 0].tolist() for r in (epochs[0][-1], epochs[1][0])]


def test_nothing_is_learnt_across_a_border() -> None:
    dialogues = some_dialogues([30, 25])
    dialogues.targets[:] = True
    ids, weights, documents = PackedDialogues(dialogues, np.arange(2), length=70).lay([0])
    assert ids.shape == (1, 55) and documents[0].tolist() == [0] * 30 + [1] * 24
    assert weights[0].tolist() == [1.0] * 29 + [0.0] + [1.0] * 24


def test_a_long_dialogue_is_cut_and_a_mute_one_left_out() -> None:
    dialogues = some_dialogues([50, 90, 30])
    dialogues.targets[:] = False
    dialogues.targets[[10, 60, 139]] = True  # the third has none; the second's first line is within 64 tokens
    packed = PackedDialogues(dialogues, np.arange(3), length=64)
    ids, weights, _ = packed.lay(range(packed.num_rows))
    assert ids.shape == (2, 65) and weights.sum() == 2
    with pytest.raises(DataError, match="None of 1 dialogues has a line"):
        PackedDialogues(dialogues, np.asarray([2]), length=64)
