"""Calibration batches: what pruning and quantization watch a model read."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.data.dialogues import encode_dialogues
from understudy.data.files import read_bytes, read_json_lines
from understudy.errors import DataError
from understudy.tokenizer import Tokenizer

__all__ = ["draw_batches", "encode_documents", "read_documents"]

_TEXT_ENDINGS = (".txt", ".md")
_TEXTS_AT_ONCE = 256

_Ids = npt.NDArray[np.uint32]


def read_documents(paths: Iterable[Path]) -> list[str | dict[str, Any]]:
    """Texts and dialogues of files, in order.

    A `.txt` or `.md` file is one text. A `.jsonl` file has a record a line: a text under "text", or a dialogue with
    "turns" as in `worlds/README.md`, whose tools may be names from the `tools.json` beside the file. Any of them may
    be packed as `.zst`.

    Raises:
        DataError: a file is missing, damaged or of another kind.
    """
    documents: list[str | dict[str, Any]] = []
    for path in paths:
        name = path.name.removesuffix(".zst")
        if name.endswith(_TEXT_ENDINGS):
            try:
                documents.append(read_bytes(path).decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is no UTF-8 text: {error}; convert it first.") from error
        elif name.endswith(".jsonl"):
            tools = _tools_beside(path)
            documents += [_document(record, path, tools) for record in read_json_lines(path)]
        else:
            raise DataError(f"{path} is of no known kind; expected .txt, .md or .jsonl, packed as .zst or not.")
    return documents


def encode_documents(documents: Sequence[str | dict[str, Any]], tokenizer: Tokenizer, *, eos: int) -> _Ids:
    """Token ids of all documents end to end; dialogues in the prompt template, each text closed by `eos`."""
    texts = [d for d in documents if isinstance(d, str)]
    dialogues = [d for d in documents if isinstance(d, dict)]
    parts: list[_Ids] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded = tokenizer.encode_batch(texts[start : start + _TEXTS_AT_ONCE])
        parts += [np.asarray([*ids, eos], np.uint32) for ids in encoded]
    if dialogues:
        parts.append(encode_dialogues(dialogues, tokenizer).token_ids.astype(np.uint32))
    return np.concatenate([np.zeros(0, np.uint32), *parts])


def draw_batches(
    token_ids: npt.NDArray[np.integer[Any]], *, samples: int, length: int, rows: int = 8, seed: int = 0
) -> list[Tensor]:
    """Cut a stream into windows that do not overlap, and draw some of them.

    Args:
        token_ids: (total,) ids.
        samples: number of windows to draw.
        length: tokens of a window.
        rows: windows of a batch.
        seed: of the draw.

    Returns:
        Batches of (rows, length) int64, the last one smaller where `samples` does not divide.

    Raises:
        DataError: the stream has fewer windows than `samples`.
    """
    there = len(token_ids) // length
    if not 1 <= samples <= there:
        raise DataError(
            f"The calibration texts hold {there} samples of {length} tokens, {samples} were asked for; give more text "
            "or ask for fewer samples (at least 1)."
        )
    windows = token_ids[: there * length].reshape(there, length)
    chosen = np.random.default_rng(seed).permutation(there)[:samples]
    drawn = torch.from_numpy(windows[chosen].astype(np.int64))
    return list(drawn.split(rows))


def _tools_beside(path: Path) -> dict[str, Any]:
    """Tools by name, from the world that a dialogue file belongs to; none where it belongs to no world."""
    beside = path.with_name("tools.json")
    if not beside.is_file():
        return {}
    try:
        return {tool["function"]["name"]: tool for tool in json.loads(read_bytes(beside))}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{beside} is no list of tools with function names: {error!r}.") from error


def _document(record: dict[str, Any], path: Path, tools: dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(text := record.get("text"), str):
        return text
    turns = record.get("turns")
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("role"), str) for t in turns):
        keys = ", ".join(sorted(record))[:80]
        raise DataError(f'{path}: a record has the keys {keys}; expected "text", or "turns" that have roles each.')
    if missing := [t for t in record.get("tools", []) if isinstance(t, str) and t not in tools]:
        raise DataError(
            f"{path}: a dialogue has the tool {missing[0]!r}, which no tools.json beside the file describes."
        )
    named = [tools[t] if isinstance(t, str) else t for t in record.get("tools", [])]
    return {"system": "", "context": [], **record, "tools": named}
