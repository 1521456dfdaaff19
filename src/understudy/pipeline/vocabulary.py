"""A teacher that knows only the tokens that the recipe's texts need."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from understudy.model.checkpoint import load_model
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import MODEL, model_of
from understudy.pruning.tensors import stored_tensors
from understudy.pruning.vocabulary import check_encodings, prune_vocabulary, trim_vocabulary
from understudy.training.corpus import source_texts
from understudy.training.folder import write_folder, write_json

__all__ = ["vocabulary_stage"]

_ROWS_MULTIPLE = 64
_TEXTS_AT_ONCE = 256


def vocabulary_stage(recipe: MakeRecipe, data: Path) -> Stage:
    """Trim the teacher's vocabulary to what the trainings read; logits of the tokens that stay do not change.

    Args:
        recipe: names the sources.
        data: folder of the corpora.
    """
    guess = Estimate(seconds=120.0, memory_bytes=2 << 30, what="tokens that no source holds")
    used = sorted(source["name"] for source in recipe.sources)
    return Stage(
        name="vocabulary",
        needs=("data", "teacher"),
        settings={"sources": used, "seed": recipe.seed},
        run=partial(_trim, recipe, data),
        estimate=lambda _: guess,
    )


def _trim(recipe: MakeRecipe, data: Path, context: StageContext) -> None:
    files = load_model(model_of(context.inputs["teacher"]))
    trimmed = trim_vocabulary(files.tokenizer, files.config, texts=_texts(recipe, data), multiple_of=_ROWS_MULTIPLE)
    compared = 0
    for texts in _groups(_texts(recipe, data)):
        before, after = (
            np.concatenate([np.asarray(ids, np.int64) for ids in tokenizer.encode_batch(texts)])
            for tokenizer in (files.tokenizer, trimmed.tokenizer)
        )
        check_encodings(trimmed, before, after)
        compared += len(before)
    tensors = prune_vocabulary(stored_tensors(files), trimmed)
    context.report(f"{files.config.vocab_size:,} tokens became {trimmed.config.vocab_size:,}; {compared:,} compared")
    write_json(
        context.folder / "vocabulary.json",
        {"before": files.config.vocab_size, "after": trimmed.config.vocab_size, "tokens_compared": compared},
    )
    write_folder(
        context.folder / MODEL, trimmed.config, tensors, trimmed.tokenizer, chat_template=files.chat_template,
        metadata={"understudy.recipe": json.dumps({"vocabulary": "trimmed", "from": files.path.name})},
    )  # fmt: skip


def _groups(texts: Iterator[str]) -> Iterator[list[str]]:
    while group := list(islice(texts, _TEXTS_AT_ONCE)):
        yield group


def _texts(recipe: MakeRecipe, data: Path) -> Iterator[str]:
    for part in recipe.trainings().values():
        for source in recipe.training(part, name="texts", model=recipe.any_shape()).sources:
            yield from source_texts(source, data)
