import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from understudy.data.dialogues import EncodedDialogues
from understudy.testing import random_tensors, tiny_config
from understudy.training.batches import MicroBatch
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.pairs import PackedPairs
from understudy.training.preference import DirectPreference
from understudy.training.recipe import PreferenceRecipe


def some_pairs(sizes: list[tuple[int, int, int]]) -> EncodedDialogues:
    """Pairs of a prompt and two answers of these sizes."""
    rng = np.random.default_rng(1)
    ids, targets, offsets = [], [], [0]
    for size, *answers in sizes:
        prompt = rng.integers(12, 268, size)
        for answer in answers:
            ids += [prompt, rng.integers(12, 268, answer)]
            targets += [np.zeros(size, bool), np.ones(answer, bool)]
            offsets.append(offsets[-1] + size + answer)
    return EncodedDialogues(np.concatenate(ids).astype(np.uint16), np.concatenate(targets), np.asarray(offsets))


SIZES = [(20, 5, 8), (31, 1, 3), (9, 12, 2), (40, 6, 6), (17, 3, 9)]


@pytest.fixture
def models() -> tuple[NemotronLM, NemotronLM]:
    config = tiny_config()
    out = []
    for seed in (4, 5):
        out.append(NemotronLM(config))
        from_hf_tensors(out[-1], {n: torch.from_numpy(t) for n, t in random_tensors(config, seed=seed).items()})
    return out[0], out[1]


def likelihood(model: NemotronLM, dialogues: EncodedDialogues, index: int) -> tuple[torch.Tensor, int]:
    """Log-likelihood of a dialogue's answer, the plain way, and its tokens."""
    start, end = (int(x) for x in dialogues.offsets[index : index + 2])
    ids = torch.from_numpy(dialogues.token_ids[start:end].astype(np.int64))[None]
    spoken = torch.from_numpy(dialogues.targets[start + 1 : end])
    logs = F.log_softmax(model(ids[:, :-1])[0], -1).gather(1, ids[0, 1:, None])[:, 0]
    return logs[spoken].sum(), int(spoken.sum())


def test_loss_and_gradient_are_those_of_the_formula(models: tuple[NemotronLM, NemotronLM]) -> None:
    model, reference = models
    recipe = PreferenceRecipe(beta=0.3, nll_weight=0.5)
    dialogues = some_pairs(SIZES)
    expected = torch.zeros(())
    for pair in range(len(SIZES)):
        (chosen, size), (rejected, _) = (likelihood(model, dialogues, 2 * pair + n) for n in (0, 1))
        with torch.no_grad():
            before = [likelihood(reference, dialogues, 2 * pair + n)[0] for n in (0, 1)]
        margin = recipe.beta * ((chosen - before[0]) - (rejected - before[1]))
        expected = expected - F.logsigmoid(margin) - recipe.nll_weight * chosen / size
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = {name: copy.deepcopy(p.grad) for name, p in model.named_parameters()}
    model.zero_grad()

    packed = PackedPairs(dialogues, np.arange(2 * len(SIZES)), length=120)
    part = MicroBatch("pairs", 1.0, *packed.lay(range(packed.num_rows)))
    objective = DirectPreference(reference, recipe)
    assert packed.num_rows > 1 and objective.count(part) == len(SIZES)
    ids, weights, documents = (torch.from_numpy(x) for x in (part.token_ids, part.weights, part.document_ids))
    loss = objective.loss_sum(model, ids, weights, documents)
    assert abs(float(loss.detach()) - float(expected.detach())) < 1e-3
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, wanted[name], atol=1e-4), name
    assert all(p.grad is None for p in reference.parameters())


def test_rows_without_pairs_are_learnt_by_cross_entropy(models: tuple[NemotronLM, NemotronLM]) -> None:
    model, reference = models
    ids, weights = torch.randint(12, 268, (2, 30)), torch.ones(2, 29)
    objective = DirectPreference(reference, PreferenceRecipe())
    assert objective.loss_sum(model, ids, weights) == model.loss_sum(ids, weights)
    assert objective.count(MicroBatch("talk", 1.0, ids.numpy(), weights.numpy())) == 58
