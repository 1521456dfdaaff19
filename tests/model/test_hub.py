"""Which files of a repository a model needs, and where a pulled one is found."""

import os
from pathlib import Path

import pytest

from understudy.errors import ModelFileError
from understudy.model.hub import HubFile, choose_files, find_cached, pull


def listing(*names: str) -> list[HubFile]:
    return [HubFile(name=name, num_bytes=1) for name in names]


BASE = ("config.json", "tokenizer.json")


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ((*BASE, "model.safetensors", "pytorch_model.bin"), [*BASE, "model.safetensors"]),
        ((*BASE, "pytorch_model.bin", "optimizer.bin", "x.nemo"), [*BASE, "pytorch_model.bin"]),
        (
            (
                *BASE,
                "model.safetensors.index.json",
                "model-00002-of-00002.safetensors",
                "model-00001-of-00002.safetensors",
                "consolidated-00001-of-00002.safetensors",
            ),
            [
                *BASE,
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        ),
        ((*BASE, "model.safetensors", "old/model.safetensors", "README.md"), ["README.md", *BASE, "model.safetensors"]),
        (("only.gguf", "README.md"), ["only.gguf"]),
    ],
)
def test_what_a_model_needs(there: tuple[str, ...], chosen: list[str]) -> None:
    assert sorted(file.name for file in choose_files(listing(*there))) == sorted(chosen)


def test_of_several_packed_files_one_is_named() -> None:
    files = listing("a-q4.gguf", "a-q8.gguf")
    with pytest.raises(ModelFileError, match=r"name one with --file: a-q4.gguf, a-q8.gguf"):
        choose_files(files)
    assert [file.name for file in choose_files(files, "a-q8.gguf")] == ["a-q8.gguf"]
    with pytest.raises(ModelFileError, match=r"no GGUF file '../a-q8.gguf'"):
        choose_files(files, "../a-q8.gguf")


@pytest.mark.parametrize(
    "there", [(), BASE, ("model.safetensors",), ("folder/config.json", "../only.gguf", "..\\x.gguf")]
)
def test_no_model(there: tuple[str, ...]) -> None:
    with pytest.raises(ModelFileError, match="It has no model"):
        choose_files(listing(*there))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "one",
        "a/b/c",
        "../up/down",
        "a b/c",
        "-a/b",
        "https://x.y/a/b",
        "a/" + "b" * 99,
        "a/b--c",
        "a/b..c",
        "a/b@../c",
    ],
)
def test_no_name_of_a_repository(name: str) -> None:
    assert find_cached(name) is None
    with pytest.raises(ModelFileError, match="OWNER/NAME"):
        pull(name)


def test_the_cached_copy_of_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--a--b"
    for age, commit in enumerate(("new", "old")):
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        os.utime(snapshot, (1000 - age, 1000 - age))
    assert find_cached("a/b") == folder / "snapshots" / "new"
    assert find_cached("a/b@old") == folder / "snapshots" / "old"
    assert find_cached("a/b@v1") is None
    assert find_cached("a/other") is None
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("old")
    assert find_cached("a/b") == folder / "snapshots" / "old"
    (folder / "snapshots" / "old" / "config.json").unlink()
    with pytest.raises(ModelFileError, match="should hold one model"):
        find_cached("a/b")
