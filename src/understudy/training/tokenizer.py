"""Training the byte-level BPE vocabulary."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from understudy.errors import RecipeError
from understudy.prompt import MARKERS
from understudy.tokenizer import Tokenizer
from understudy.training.corpus import source_texts
from understudy.training.recipe import Recipe

__all__ = ["recipe_tokenizer", "train_tokenizer"]

_BYTES_PER_SOURCE = 6_000_000
_BYTES_PER_DOCUMENT = 50_000

_CONTROL = ("<pad>", "<unk>", "<s>", "</s>")


def train_tokenizer(texts: Iterable[str], path: Path, *, vocab_size: int) -> None:
    """Train GPT-2's kind of BPE (its split, all 256 bytes) and write `tokenizer.json`.

    Ids 0 to 3 are pad, unk, bos and eos as in the published model; the prompt markers follow as single tokens.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in (*_CONTROL, *MARKERS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def recipe_tokenizer(recipe: Recipe, *, data: Path, output: Path, report: Callable[[str], None]) -> Tokenizer:
    """The run's tokenizer: read from `output`, or trained on an equal part of each of the recipe's sources."""
    path = output / "tokenizer.json"
    if not path.exists():
        report("training the tokenizer")
        train_tokenizer(_sample(recipe, data), path, vocab_size=recipe.model.vocab_size)
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.vocab_size != recipe.model.vocab_size:
        raise RecipeError(
            f"{path} has {tokenizer.vocab_size} tokens, the recipe's model {recipe.model.vocab_size}; "
            "delete the file to train it again, or change vocab_size."
        )
    return tokenizer


def _sample(recipe: Recipe, data: Path) -> Iterator[str]:
    for source in recipe.sources:
        budget = _BYTES_PER_SOURCE
        for text in source_texts(source, data):
            yield text[:_BYTES_PER_DOCUMENT]
            budget -= min(len(text), _BYTES_PER_DOCUMENT)
            if budget < 0:
                break
