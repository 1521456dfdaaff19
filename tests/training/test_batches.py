import json
from pathlib import Path

import numpy as np

from understudy.tokenizer import Tokenizer
from understudy.training.batches import Batcher, MicroBatch
from understudy.training.corpus import open_corpus
from understudy.training.recipe import Recipe, SourceRecipe, StageRecipe


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


def own_files(folder: Path, *, number: int = 60) -> SourceRecipe:
    rng = np.random.default_rng(number)
    records = [
        {
            "system": f"You are number {n}.",
            "turns": [
                {"role": "user", "content": "Who are you?"},
                {"role": "assistant", "content": f"Number {n}. " + "Truly so. " * int(rng.integers(1, 6))},
            ],
        }
        for n in range(number)
    ]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return SourceRecipe(name="mine", kind="file", corpora=("mine.jsonl",), licence="CC0-1.0", held_out=0.2)


def test_packed_batches_of_own_files(recipe: Recipe, tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = own_files(tmp_path)
    reports: list[str] = []
    corpus, again = (
        open_corpus(source, data=tmp_path, cache=tmp_path, tokenizer=tokenizer, eos=3, report=reports.append)
        for _ in range(2)
    )
    assert reports == ["encoding mine"]
    stage = StageRecipe(
        name="packed", steps=1, length=256, batch_tokens=2048, mixture={"mine": 1.0, "prose": 0.0}, packing=True
    )
    first, second = (Batcher([c], seed=9, pad=0) for c in (corpus, again))
    for step in (0, 3):
        (a,), (b,) = first.draw(stage, step), second.draw(stage, step)
        assert a.document_ids is not None and b.document_ids is not None
        assert np.array_equal(a.token_ids, b.token_ids) and np.array_equal(a.document_ids, b.document_ids)
        assert a.weights.shape == a.document_ids.shape == (8, a.token_ids.shape[1] - 1)
        assert a.document_ids.max() >= 3  # many dialogues a row
        assert (a.token_ids == 0).mean() < 0.2
    dialogues = corpus.dialogues
    assert dialogues is not None and len(corpus.held_out) == 12
    seen = {tuple(row[row > 0]) for step in range(12) for row in cut(first.draw(stage, step)[0])}
    for index in range(60):
        own = tuple(int(i) for i in dialogues.token_ids[dialogues.offsets[index] : dialogues.offsets[index + 1]])
        assert (own in seen) == (index not in corpus.held_out)


def cut(batch: MicroBatch) -> list[np.ndarray]:
    """The documents of packed rows, each with its last token."""
    out = []
    assert batch.document_ids is not None
    for ids, documents in zip(batch.token_ids, batch.document_ids, strict=True):
        ends = [*np.nonzero(np.diff(documents))[0] + 1, len(ids)]
        out += [ids[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return out


def test_a_changed_file_is_read_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    reports: list[str] = []
    for number in (20, 21, 21):
        source = own_files(tmp_path, number=number)
        open_corpus(source, data=tmp_path, cache=tmp_path, tokenizer=tokenizer, eos=3, report=reports.append)
    assert len(reports) == 2
