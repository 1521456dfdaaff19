import numpy as np
import pytest
import torch

from understudy.data.dialogues import EncodedDialogues
from understudy.testing import random_tensors, tiny_config
from understudy.training.corpus import Corpus
from understudy.training.held_out import HeldOutDialogues
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.objective import CrossEntropy
from understudy.training.recipe import SourceRecipe


def corpus(share: float) -> Corpus:
    rng = np.random.default_rng(3)
    sizes = rng.integers(20, 60, 10)
    targets = rng.random(int(sizes.sum())) < 0.4
    ids = rng.integers(12, 268, int(sizes.sum())).astype(np.uint16)
    dialogues = EncodedDialogues(ids, targets, np.concatenate([[0], np.cumsum(sizes)]))
    recipe = SourceRecipe(name="mine", kind="file", corpora=("mine.jsonl",), licence="MIT", held_out=share)
    return Corpus(recipe, dialogues=dialogues)


def test_the_loss_is_that_of_the_held_out_lines_alone() -> None:
    config = tiny_config()
    model = NemotronLM(config)
    from_hf_tensors(model, {name: torch.from_numpy(t) for name, t in random_tensors(config).items()})
    some = corpus(0.3)
    assert len(some.held_out) == 3 and sorted([*some.held_out, *some.members]) == list(range(10))
    autocast = torch.autocast("cpu", enabled=False)
    figures = HeldOutDialogues([some, corpus(0.0)], length=128, pad=0).losses(model, CrossEntropy(), autocast=autocast)
    dialogues, total, count = some.dialogues, 0.0, 0
    assert dialogues is not None
    with torch.no_grad():
        for index in some.held_out:
            own = slice(dialogues.offsets[index], dialogues.offsets[index + 1])
            ids = torch.from_numpy(dialogues.token_ids[own].astype(np.int64))[None]
            spoken = torch.from_numpy(dialogues.targets[own][1:]).float()[None]
            total += float(model.loss_sum(ids, spoken))
            count += int(spoken.sum())
    assert figures == {"held_out_mine": pytest.approx(total / count, rel=1e-5)}


def test_the_choice_follows_the_seed_of_the_source() -> None:
    assert np.array_equal(corpus(0.5).held_out, corpus(0.5).held_out)
    assert set(corpus(0.3).held_out) < set(corpus(0.5).held_out)
