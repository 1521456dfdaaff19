"""A teacher in a process of its own, asked over a loopback socket: one teacher for many students or processes."""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.distillation.teacher import DTYPES, Question, Teacher, TeacherFacts, check_answer, check_question
from understudy.distillation.wire import greet, read_message, welcome, write_message
from understudy.errors import DataError, ModelFileError, UnderstudyError
from understudy.model.config import NemotronConfig

__all__ = ["RemoteTeacher", "TeacherServer"]

_MAX_QUESTION_BYTES = 64 << 20
_SPARE_BYTES = 1 << 16
_GREETING_S = 10.0


class TeacherServer:
    """Serves a teacher on 127.0.0.1; port and secret stand in a file that only the user can read."""

    def __init__(self, teacher: Teacher, address: Path) -> None:
        """Listen, and write the address file.

        Raises:
            DataError: the file cannot be written.
        """
        self._teacher, self._address = teacher, address
        self._token = secrets.token_bytes(32)
        self._one_at_a_time = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        try:
            _write_private(address, json.dumps({"host": "127.0.0.1", "port": port, "token": self._token.hex()}))
        except OSError as error:
            self._listener.close()
            raise DataError(f"The address file {address} cannot be written: {error}.") from error

    def serve(self) -> None:
        """Answer until `close` is called from another thread, or an exception such as Ctrl-C."""
        with contextlib.suppress(OSError):  # the closed listener ends the loop
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Stop listening and take the address file away."""
        self._address.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _attend(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(DataError, OSError):  # a student that leaves is no error here
            connection.settimeout(_GREETING_S)
            welcome(connection, self._token)
            connection.settimeout(None)
            while True:
                words, tensors = read_message(connection, max_bytes=_MAX_QUESTION_BYTES)
                try:
                    with self._one_at_a_time:
                        reply, payload = self._reply(words, tensors)
                except UnderstudyError as error:
                    reply, payload = {"error": str(error)}, {}
                write_message(connection, reply, payload)

    def _reply(self, words: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        match words.get("ask"):
            case "facts":
                return dataclasses.asdict(self._teacher.facts), {}
            case "fingerprint":
                return {"fingerprint": self._teacher.fingerprint()}, {}
            case "table":
                return {}, {"table": self._teacher.table()}
            case "answer":
                question = _question(words.get("question"))
                check_question(question, self._teacher.facts.config)
                ids, chosen, documents = _batch(tensors, self._teacher.facts.config)
                return {}, self._teacher.answer(question, ids, chosen, documents)
        raise DataError(f"A teacher answers facts, fingerprint, table and answer, not {words.get('ask')!r}.")


class RemoteTeacher:
    """A teacher that another process serves; its output table is fetched once."""

    def __init__(self, address: Path) -> None:
        """Connect to the teacher of an address file.

        Raises:
            DataError: no such file, nobody there, or somebody else.
        """
        self._name = f"the teacher at {address}"
        host, port, token = _read_address(address)
        try:
            self._connection = socket.create_connection((host, port), timeout=_GREETING_S)
        except OSError as error:
            raise DataError(f"Nobody answers where {address} points to ({error}); start the teacher again.") from error
        self._table: Tensor | None = None
        try:
            greet(self._connection, token)
            self._connection.settimeout(None)
            self.facts = _facts(self._ask({"ask": "facts"}, {}, max_bytes=0)[0], self._name)
        except (DataError, OSError) as error:
            self._connection.close()
            raise DataError(f"{address} leads to no teacher: {error}") from error

    def fingerprint(self) -> str:
        """See `Teacher`."""
        value = self._ask({"ask": "fingerprint"}, {}, max_bytes=0)[0].get("fingerprint")
        if not isinstance(value, str) or not value.isalnum():
            raise DataError(f"{self._name} gave {value!r} as its fingerprint, not a hash.")
        return value

    def table(self) -> Tensor:
        """See `Teacher`."""
        if self._table is None:
            config = self.facts.config
            size = config.vocab_size * config.hidden_size * 4 + _SPARE_BYTES
            table = self._ask({"ask": "table"}, {}, max_bytes=size)[1].get("table")
            if table is None or tuple(table.shape) != (config.vocab_size, config.hidden_size):
                raise DataError(f"{self._name} sent an output table of another shape than its facts say.")
            self._table = table.cuda() if torch.cuda.is_available() else table
        return self._table

    def answer(
        self, question: Question, token_ids: Tensor, chosen: Tensor, document_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Teacher`."""
        batch = {"token_ids": token_ids, "chosen": chosen.to(torch.uint8)}
        if document_ids is not None:
            batch["document_ids"] = document_ids
        count = int(chosen.sum())
        shapes = question.shapes(self.facts, count).values()
        size = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes) + _SPARE_BYTES
        words = {"ask": "answer", "question": dataclasses.asdict(question)}
        answer = self._ask(words, batch, max_bytes=size)[1]
        check_answer(answer, question, self.facts, count, f"What {self._name} sent")
        return answer

    def close(self) -> None:
        """See `Teacher`."""
        self._connection.close()

    def _ask(
        self, words: dict[str, Any], tensors: dict[str, Tensor], *, max_bytes: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            write_message(self._connection, words, tensors)
            reply, payload = read_message(self._connection, max_bytes=max_bytes)
        except OSError as error:
            raise DataError(f"The connection to {self._name} broke ({error}); start the teacher again.") from error
        if "error" in reply:
            raise DataError(f"{self._name} says: {reply['error']}")
        return reply, payload


def _batch(tensors: dict[str, Tensor], config: NemotronConfig) -> tuple[Tensor, Tensor, Tensor | None]:
    """The batch of a question, checked: an id beyond the table must not reach the look-up."""
    ids, chosen, documents = (tensors.get(name) for name in ("token_ids", "chosen", "document_ids"))
    if ids is None or chosen is None or ids.dim() != 2 or ids.dtype != torch.int64 or not ids.numel():
        raise DataError("A question needs token_ids (B, T), int64, and chosen (B, T).")
    if chosen.shape != ids.shape or (documents is not None and documents.shape != ids.shape):
        raise DataError("A question's chosen positions and documents need the shape of its token_ids.")
    if ids.shape[1] > config.max_position_embeddings or not 0 <= int(ids.min()) <= int(ids.max()) < config.vocab_size:
        raise DataError(
            f"A question's ids must be below {config.vocab_size} and its rows at most {config.max_position_embeddings} "
            "long."
        )
    return ids, chosen.bool(), documents


def _question(raw: Any) -> Question:
    kinds = {"top_k": int | None, "temperature": float | int, "has_layer": bool}
    if not isinstance(raw, dict) or any(not isinstance(v, kinds.get(k, ())) for k, v in raw.items()):
        raise DataError(f"A teacher was asked what it does not know: {raw!r}.")
    question = Question(**raw)
    if question.temperature <= 0 or (question.top_k is not None and question.top_k < 1):
        raise DataError(f"A teacher was asked what makes no sense: {question}.")
    return question


def _facts(raw: dict[str, Any], name: str) -> TeacherFacts:
    try:
        facts = TeacherFacts(**{**raw, "config": NemotronConfig(**raw["config"])})
    except (KeyError, TypeError, ModelFileError) as error:
        raise DataError(f"{name} does not say what it is: {error}.") from error
    if facts.dtype not in DTYPES:
        raise DataError(f"{name} answers in {facts.dtype!r}; expected one of {', '.join(DTYPES)}.")
    return facts


def _read_address(path: Path) -> tuple[str, int, bytes]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        host, port, token = str(raw["host"]), int(raw["port"]), bytes.fromhex(raw["token"])
    except FileNotFoundError as error:
        raise DataError(
            f"There is no address file at {path}; start the teacher: understudy distill --serve."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the address file of a teacher: {error}.") from error
    if host != "127.0.0.1" or not 0 < port < 1 << 16:
        raise DataError(f"{path} points to {host}:{port}; a teacher is on 127.0.0.1.")
    return host, port, token


def _write_private(path: Path, text: str) -> None:
    """A file that only its owner can read, complete from the moment it appears."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)
