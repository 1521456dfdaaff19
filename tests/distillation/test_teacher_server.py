import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import LocalTeacher, Question
from understudy.distillation.teacher_server import RemoteTeacher, TeacherServer
from understudy.distillation.wire import greet, read_message, write_message
from understudy.errors import DataError
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer


@pytest.fixture
def address(teacher: LocalTeacher, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "teacher.json"
    server = TeacherServer(teacher, path)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield path
    server.close()
    thread.join(timeout=10)
    assert not thread.is_alive() and not path.exists()


@pytest.fixture
def remote(address: Path) -> Iterator[RemoteTeacher]:
    teacher = RemoteTeacher(address)
    yield teacher
    teacher.close()


def knock(address: Path) -> socket.socket:
    raw = json.loads(address.read_text())
    return socket.create_connection((raw["host"], raw["port"]), timeout=10)


def enter(address: Path) -> socket.socket:
    connection = knock(address)
    greet(connection, bytes.fromhex(json.loads(address.read_text())["token"]))
    return connection


def test_a_remote_teacher_answers_as_the_local_one(teacher: LocalTeacher, remote: RemoteTeacher) -> None:
    assert remote.facts == teacher.facts and remote.fingerprint() == teacher.fingerprint()
    assert torch.equal(remote.table(), teacher.table())
    generator = torch.Generator().manual_seed(0)
    ids, chosen = torch.randint(12, 268, (2, 9), generator=generator), torch.rand(2, 9, generator=generator) > 0.4
    documents = torch.tensor([[0] * 4 + [1] * 5] * 2)
    for question in (Question(), Question(top_k=5, temperature=2.0, has_layer=True)):
        for batch in ((ids, chosen), (ids, chosen, documents), (ids, torch.zeros_like(chosen))):
            expected, got = teacher.answer(question, *batch), remote.answer(question, *batch)
            assert expected.keys() == got.keys() and all(torch.equal(expected[n], got[n]) for n in expected)


def test_training_does_not_notice(recipe: Recipe, pupil: Callable[..., Trainer], remote: RemoteTeacher) -> None:
    plan = DistillationRecipe(cosine_weight=0.2)
    local = [p.loss for p in pupil(recipe, plan, output="local").run()]
    assert [p.loss for p in pupil(recipe, plan, asked=remote, output="remote").run()] == local


def test_the_teachers_complaint_arrives(remote: RemoteTeacher) -> None:
    chosen = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(DataError, match=r"says: .*below 268"):
        remote.answer(Question(), torch.full((1, 4), 9999), chosen)
    with pytest.raises(DataError, match="says: top_k must be below"):
        remote.answer(Question(top_k=268), torch.full((1, 4), 20), chosen)
    assert remote.answer(Question(), torch.full((1, 4), 20), chosen)["states"].shape == (4, 64)


def test_the_address_file_is_private(address: Path) -> None:
    assert address.stat().st_mode & 0o077 == 0


def test_without_the_token_nobody_is_let_in(address: Path) -> None:
    with knock(address) as connection, pytest.raises(DataError, match="closed the connection"):
        greet(connection, b"\0" * 32)
    with RemoteTeacher(address)._connection:
        pass  # the right one still works


def test_an_impostor_is_not_asked(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    path = tmp_path / "false.json"
    path.write_text(json.dumps({"host": "127.0.0.1", "port": listener.getsockname()[1], "token": "00" * 32}))

    def pretend() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(bytes(32 + 32))
            connection.recv(1000)

    thread = threading.Thread(target=pretend)
    thread.start()
    with listener, pytest.raises(DataError, match="not the teacher of the address file"):
        RemoteTeacher(path)
    thread.join(timeout=10)


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("<QQ", 1 << 40, 0),
        struct.pack("<QQ", 2, 1 << 62) + b"{}",
        struct.pack("<QQ", 2, 0) + b"[]",
        struct.pack("<QQ", 3, 0) + b"{{{",
        struct.pack("<QQ", 2, 9) + b"{}" + b"\xff" * 9,
    ],
)
def test_nonsense_ends_the_conversation_not_the_server(address: Path, message: bytes) -> None:
    with enter(address) as connection:
        connection.sendall(message)
        connection.settimeout(10)
        with contextlib.suppress(ConnectionResetError):  # what it never read is thrown away
            assert connection.recv(1) == b""
    with enter(address) as connection:
        write_message(connection, {"ask": "facts"})
        assert read_message(connection, max_bytes=0)[0]["dtype"] == "float32"


@pytest.mark.parametrize(
    "words",
    [
        {"ask": "weights"},
        {"ask": "answer", "question": {"top_q": 3}},
        {"ask": "answer", "question": {"top_k": "all"}},
        {"ask": "answer", "question": {"temperature": -1.0}},
        {"ask": "answer", "question": {}},
    ],
)
def test_a_strange_question_gets_an_error(address: Path, words: dict[str, object]) -> None:
    with enter(address) as connection:
        write_message(connection, words)
        assert "error" in read_message(connection, max_bytes=0)[0]


def test_more_than_expected_is_not_read(address: Path) -> None:
    with enter(address) as connection:
        write_message(connection, {"ask": "table"})
        with pytest.raises(DataError, match=r"announces 2 \+ \d+ bytes where at most 1048576 \+ 100 make sense"):
            read_message(connection, max_bytes=100)


def test_a_missing_teacher_is_said_to_be_missing(tmp_path: Path, teacher: LocalTeacher) -> None:
    with pytest.raises(DataError, match="no address file"):
        RemoteTeacher(tmp_path / "none.json")
    path = tmp_path / "gone.json"
    server = TeacherServer(teacher, path)
    text = path.read_text()
    server.close()
    path.write_text(text)
    with pytest.raises(DataError, match="Nobody answers"):
        RemoteTeacher(path)
    for bad in (
        "[]",
        "{",
        '{"host": "10.0.0.1", "port": 5, "token": ""}',
        '{"host": "127.0.0.1", "port": 0, "token": ""}',
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match=r"address file of a teacher|a teacher is on 127\.0\.0\.1"):
            RemoteTeacher(path)
