"""Dialogues of the corpora as conversations, and conversations as token arrays."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.prompt import Conversation, Message, Piece, ToolCall, render
from understudy.tokenizer import Tokenizer

__all__ = ["EncodedDialogues", "encode_dialogues", "to_conversation"]


@dataclasses.dataclass(frozen=True)
class EncodedDialogues:
    """Token ids of many dialogues end to end.

    Attributes:
        token_ids: (total,) uint16 or uint32.
        targets: (total,) True where the character itself speaks.
        offsets: (n + 1,) start of each dialogue.
    """

    token_ids: npt.NDArray[np.unsignedinteger[Any]]
    targets: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def to_conversation(record: dict[str, Any]) -> Conversation:
    """A corpus record (system, context, tools, turns) as a conversation."""
    messages = [Message(role="system", content=record["system"])]
    for turn in record["turns"]:
        calls = tuple(
            ToolCall(name=c["name"], arguments=json.dumps(c["arguments"], ensure_ascii=False))
            for c in turn.get("tool_calls") or ()
        )
        messages.append(Message(role=turn["role"], content=turn.get("content") or "", tool_calls=calls))
    return Conversation(messages=tuple(messages), tools=tuple(record["tools"]), contexts=tuple(record["context"]))


def encode_dialogues(records: Iterable[dict[str, Any]], tokenizer: Tokenizer) -> EncodedDialogues:
    """Render records through the prompt template and encode them, many at a time."""
    ids: list[npt.NDArray[np.uint32]] = []
    targets: list[npt.NDArray[np.bool_]] = []
    lengths = [0]
    for batch in _batches(records, 4096):
        runs = [_runs(render(to_conversation(r), add_generation_prompt=False), tokenizer) for r in batch]
        texts = [part for dialogue in runs for part, _ in dialogue if isinstance(part, str)]
        encoded = iter(tokenizer.encode_batch(texts))
        for dialogue in runs:
            length = 0
            for part, is_target in dialogue:
                new = np.asarray(next(encoded) if isinstance(part, str) else [part], np.uint32)
                ids.append(new)
                targets.append(np.full(len(new), is_target))
                length += len(new)
            lengths.append(length)
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    flat: npt.NDArray[np.unsignedinteger[Any]] = np.concatenate([np.zeros(0, np.uint32), *ids]).astype(dtype)
    flags = np.concatenate(targets) if targets else np.zeros(0, np.bool_)
    return EncodedDialogues(flat, flags, np.cumsum(lengths, dtype=np.int64))


def _runs(pieces: Sequence[Piece], tokenizer: Tokenizer) -> list[tuple[str | int, bool]]:
    """Marker ids and joined stretches of text, as `encode_pieces` would encode them one by one."""
    runs: list[tuple[str | int, bool]] = []
    for piece in pieces:
        marker = tokenizer.special_id(piece.text) if piece.is_marker else None
        if marker is not None:
            runs.append((marker, piece.is_target))
        elif not piece.text:
            continue
        elif runs and isinstance(runs[-1][0], str) and runs[-1][1] == piece.is_target:
            runs[-1] = (runs[-1][0] + piece.text, piece.is_target)
        else:
            runs.append((piece.text, piece.is_target))
    return runs


def _batches(records: Iterable[dict[str, Any]], size: int) -> Iterable[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
