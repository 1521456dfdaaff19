"""Corpora as token arrays on disk: made once, memory-mapped afterwards."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.data.dialogue_files import hash_dialogue_files, read_dialogue_file
from understudy.data.dialogues import EncodedDialogues, encode_dialogues, to_conversation
from understudy.data.lookup.generate import LookupGenerator, content_hash
from understudy.data.preferences import keep_last_answers, read_preference_file
from understudy.data.sources import read_dialogues, read_texts
from understudy.prompt import render
from understudy.tokenizer import Tokenizer
from understudy.training.recipe import SourceRecipe

__all__ = ["Corpus", "open_corpus", "source_texts"]

# What decides the arrays of a source; the rest decides how they are used.
_DECIDING = ("name", "kind", "corpora", "count", "seed", "mix")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A source, encoded.

    Attributes:
        dialogues: for all but text and repeat sources; pairs of answers as the chosen and the rejected one in turn.
        stream: for text and repeat sources, all documents end to end, each closed by the end-of-text id.
    """

    recipe: SourceRecipe
    stream: npt.NDArray[np.unsignedinteger[Any]] | None = None
    dialogues: EncodedDialogues | None = None

    @property
    def held_out(self) -> npt.NDArray[np.int64]:
        """Indices of the dialogues that are kept from training, chosen by chance; pairs as a whole."""
        total = len(self.dialogues) if self.dialogues else 0
        together = 2 if self.recipe.kind == "preference" else 1
        chosen = np.random.default_rng((self.recipe.seed, 41)).permutation(total // together)
        first = np.sort(chosen[: round(self.recipe.held_out * len(chosen))]) * together
        return (first[:, None] + np.arange(together)).ravel()

    @property
    def members(self) -> npt.NDArray[np.int64]:
        """Indices of the dialogues to train on."""
        total = len(self.dialogues) if self.dialogues else 0
        return np.setdiff1d(np.arange(total), self.held_out)


def open_corpus(
    recipe: SourceRecipe, *, data: Path, cache: Path, tokenizer: Tokenizer, eos: int, report: Callable[[str], None]
) -> Corpus:
    """Load a source's arrays, making them first where `cache` lacks them.

    Raises:
        DataError: the corpus' files are missing or damaged.
    """
    made_by = content_hash() if recipe.kind == "lookup" else ""
    if recipe.kind in ("file", "preference"):
        made_by = hash_dialogue_files(recipe.corpora, data)
    parts = [{f: getattr(recipe, f) for f in _DECIDING}, tokenizer.definition["model"]["vocab"], made_by]
    key = json.dumps(parts, sort_keys=True, default=dict)
    folder = cache / f"{recipe.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    names = ("stream",) if recipe.kind in ("text", "repeat") else ("token_ids", "targets", "offsets")
    if not all((folder / f"{n}.npy").exists() for n in names):
        report(f"encoding {recipe.name}")
        if names == ("stream",):
            arrays = {"stream": _encode_texts(recipe, data, tokenizer, eos)}
        else:
            encoded = encode_dialogues(_records(recipe, data), tokenizer)
            encoded = keep_last_answers(encoded) if recipe.kind == "preference" else encoded
            arrays = {n: getattr(encoded, n) for n in names}
        _write(folder, arrays)
    loaded = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in names}
    if names == ("stream",):
        return Corpus(recipe, stream=loaded["stream"])
    return Corpus(recipe, dialogues=EncodedDialogues(**loaded))


def source_texts(recipe: SourceRecipe, data: Path) -> Iterator[str]:
    """A source's documents as plain text, dialogues without their markers."""
    if recipe.kind in ("text", "repeat"):
        for name in recipe.corpora:
            yield from read_texts(name, data)
    else:
        for record in _records(recipe, data):
            pieces = render(to_conversation(record), add_generation_prompt=False)
            yield "".join(p.text for p in pieces if not p.is_marker)


def _records(recipe: SourceRecipe, data: Path) -> Iterator[dict[str, Any]]:
    if recipe.kind == "lookup":
        yield from islice(LookupGenerator(recipe.seed, mix=dict(recipe.mix) or None), recipe.count)
    read = {"file": read_dialogue_file, "preference": read_preference_file}.get(recipe.kind, read_dialogues)
    for name in recipe.corpora:
        yield from read(name, data)


def _encode_texts(
    recipe: SourceRecipe, data: Path, tokenizer: Tokenizer, eos: int
) -> npt.NDArray[np.unsignedinteger[Any]]:
    parts: list[npt.NDArray[np.unsignedinteger[Any]]] = []
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    for name in recipe.corpora:
        for batch in _groups(read_texts(name, data), 32):
            for ids in tokenizer.encode_batch(batch):
                parts += [np.asarray(ids, dtype), np.asarray([eos], dtype)]
    return np.concatenate(parts)


def _groups(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def _write(folder: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        part = folder / f"{name}.part.npy"
        np.save(part, array)
        part.replace(folder / f"{name}.npy")
