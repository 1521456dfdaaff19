"""A tiny random model's file, and a folder of corpora with two dialogues, one tale and two short books."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from understudy.evaluation.subject import Subject
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

TOOL = {
    "type": "function",
    "function": {
        "name": "rent_room",
        "description": "Give a room to a guest.",
        "parameters": {"type": "object", "properties": {"nights": {"type": "integer"}}, "required": ["nights"]},
    },
}
DIALOGUES = [
    {
        "id": "one",
        "character": "ada",
        "kind": "rag",
        "tags": [],
        "system": "You are Ada, a smith.",
        "context": ["A knife costs three herons."],
        "tools": [],
        "turns": [
            {"role": "user", "content": "What is a knife?"},
            {"role": "assistant", "content": "Three herons."},
            {"role": "user", "content": "And a ship?"},
            {"role": "assistant", "content": "I don't know."},
        ],
        "checks": [
            {"must_include_any": [["three", "3"]], "must_not_include": ["two"]},
            {"must_include_any": [["don't know", "no idea"]], "must_not_include": []},
        ],
    },
    {
        "id": "two",
        "character": "ada",
        "kind": "tool",
        "tags": [],
        "system": "You are Ada, an innkeeper.",
        "context": [],
        "tools": ["rent_room"],
        "turns": [
            {"role": "user", "content": "A room for two nights."},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "rent_room", "arguments": {"nights": 2}}]},
            {"role": "tool", "content": '{"ok": true}'},
            {"role": "assistant", "content": "Done, sleep well."},
        ],
        "checks": [{"must_include_any": [], "must_not_include": []}],
    },
]
TALE = {
    "story": "the hen",
    "sections": {"1": "A hen sat on a wall.\nShe was red.", "2": "Then she flew."},
    "qas": [
        {"question": "Where did the hen sit?", "answers": ["on a wall", "the wall"], "sections": ["1"]},
        {"question": "What did she do?", "answers": ["flew"], "sections": ["1", "2"]},
    ],
}


def _lines(records: list[object]) -> str:
    return "\n".join(json.dumps(record) for record in records)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import zstandard

    folder = tmp_path_factory.mktemp("corpora")
    world = folder / "worlds" / "cloudmere"
    world.mkdir(parents=True)
    (world / "dialogues.jsonl").write_text(_lines(DIALOGUES), encoding="utf-8")
    (world / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    entry = {"id": "knife", "title": "Ada's knife", "keys": ["knife"], "text": "Ada's knife: three herons."}
    (world / "world.json").write_text(json.dumps({"id": "cloudmere", "name": "Cloudmere", "lore": [entry]}))
    (world / "characters.json").write_text(json.dumps([{"id": "ada", "name": "Ada"}]))
    (folder / "eval").mkdir()
    (folder / "eval" / "fairytaleqa_val.jsonl").write_text(_lines([TALE]), encoding="utf-8")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(2):
            text = f"Book {number}. The hen looked up and said good evening. ".encode() * 12
            entry = tarfile.TarInfo(f"books_dev/{number}.txt")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    (folder / "eval" / "books_dev.tar.zst").write_bytes(zstandard.compress(packed.getvalue()))
    return folder


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("model") / "tiny.gguf", seed=0)


@pytest.fixture(scope="session")
def parent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("parent") / "parent.gguf", seed=1)


def _write(path: Path, *, seed: int) -> Path:
    config = tiny_config()
    write_gguf(path, config, random_tensors(config, seed=seed), byte_tokenizer().definition, None, file_type="f16")
    return path


@pytest.fixture
def subject(model_file: Path, corpora: Path, tmp_path: Path) -> Subject:
    return Subject(model_file, output=tmp_path, data=corpora)
