from pathlib import Path

import numpy as np

from understudy.tokenizer import Tokenizer
from understudy.training.batches import Batcher
from understudy.training.corpus import open_corpus
from understudy.training.recipe import Recipe


def batcher(recipe: Recipe, corpora: Path, cache: Path, tokenizer: Tokenizer, reports: list[str]) -> Batcher:
    opened = [
        open_corpus(s, data=corpora, cache=cache, tokenizer=tokenizer, eos=3, report=reports.append)
        for s in recipe.sources
    ]
    return Batcher(opened, seed=recipe.seed, pad=0)


def test_batches_depend_on_the_step_alone(recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    reports: list[str] = []
    first = batcher(recipe, corpora, tmp_path, tokenizer, reports)
    second = batcher(recipe, corpora, tmp_path, tokenizer, reports)
    assert reports == ["encoding prose", "encoding lookups"]  # the second time from the cache
    stage = recipe.stages[1]
    for step in (0, 5):
        for a, b in zip(first.draw(stage, step), second.draw(stage, step), strict=True):
            assert np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.weights, b.weights)
    assert not np.array_equal(first.draw(stage, 0)[1].token_ids, first.draw(stage, 1)[1].token_ids)


def test_only_the_character_is_learnt_in_dialogues(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    drawn = batcher(recipe, corpora, tmp_path, tokenizer, []).draw(recipe.stages[1], 3)
    lookups = next(b for b in drawn if b.source == "lookups")
    assert lookups.share == 0.5
    turn = tokenizer.special_id("<extra_id_1>")
    for ids, weights in zip(lookups.token_ids, lookups.weights, strict=True):
        learnt = ids[1:][weights > 0]
        assert 0 < len(learnt) < len(ids) / 2
        assert turn in learnt  # where to stop is learnt
        header = tokenizer.encode("Assistant\n")
        text = tokenizer.decode([int(i) for i in learnt])
        assert "User\n" not in text and tokenizer.decode(header) not in text
