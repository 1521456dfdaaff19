"""A teacher's answers on disk: what was asked once is not computed again.

States in front of the output table take D numbers a position where logits take V: 6 kB in place of 0.5 MB for a 4B
model in bfloat16. A file is found by the batch itself (its ids, its chosen positions), not by recipe and step: the
batcher is a pure function of those, so a resumed or repeated run hits, and a changed recipe never meets a stale answer.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from understudy.distillation.teacher import Question, Teacher, check_answer
from understudy.errors import DataError

__all__ = ["CachedTeacher"]


class CachedTeacher:
    """Puts a folder in front of a teacher, which loads its blocks only when something is not there yet."""

    def __init__(self, teacher: Teacher, folder: Path) -> None:
        self.facts = teacher.facts
        self._teacher, self._folder = teacher, folder
        self._fingerprint = ""
        self.num_hits = 0
        self.num_misses = 0

    def fingerprint(self) -> str:
        """See `Teacher`."""
        self._fingerprint = self._fingerprint or self._teacher.fingerprint()
        return self._fingerprint

    def table(self) -> Tensor:
        """See `Teacher`."""
        return self._teacher.table()

    def answer(
        self, question: Question, token_ids: Tensor, chosen: Tensor, document_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Teacher`.

        Raises:
            DataError: a file is damaged, or the disk refuses.
        """
        folder = self._folder / f"{self.fingerprint()[:16]}-{question.name}"
        path = folder / f"{_key(token_ids, chosen, document_ids)}.safetensors"
        if path.exists():
            self.num_hits += 1
            return self._read(path, question, int(chosen.sum()))
        self.num_misses += 1
        answer = self._teacher.answer(question, token_ids, chosen, document_ids)
        _write(path, answer)
        return answer

    def close(self) -> None:
        """See `Teacher`."""
        self._teacher.close()

    def _read(self, path: Path, question: Question, count: int) -> dict[str, Tensor]:
        try:
            answer = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read ({error}); delete it, the teacher will be asked again.") from error
        check_answer(answer, question, self.facts, count, str(path))
        return answer


def _key(token_ids: Tensor, chosen: Tensor, document_ids: Tensor | None) -> str:
    digest = hashlib.sha256()
    for tensor in (token_ids, chosen, document_ids):
        if tensor is not None:
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.to(torch.int64).cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]


def _write(path: Path, answer: dict[str, Tensor]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")  # two processes may keep the same answer at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.cpu().contiguous() for name, tensor in answer.items()}, part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(
            f"The teacher's answers cannot be kept in {path.parent} ({error}); make room, or leave teacher_cache out."
        ) from error
