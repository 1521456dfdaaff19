"""The folder of NVIGI's GPT plugin: what `nvigi.ai/ai.h` and the programming guide ask for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import DataError, ModelFileError
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.prompt import NEMOTRON_CHAT_TEMPLATE, Conversation, Message, render
from understudy.quantization.nvigi import NVIGI_NEMOTRON_GUID, write_nvigi
from understudy.testing.tiny import byte_tokenizer_definition, random_tensors, tiny_config


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    config = tiny_config()
    metadata = {"general.name": "Tiny"}
    write_gguf(
        path,
        config,
        random_tensors(config),
        byte_tokenizer_definition(),
        NEMOTRON_CHAT_TEMPLATE,
        file_type="q8_0",
        metadata=metadata,
    )
    return path


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "nvigi.model.config.json").read_text(encoding="utf-8"))


def filled(pieces: list[str], **words: str) -> str:
    """What the plugin does with a template: pieces that start with a dollar are exchanged whole."""
    return "".join(words[piece[1:]] if piece.startswith("$") else piece for piece in pieces)


def test_folder_and_card(gguf: Path, tmp_path: Path) -> None:
    folder = write_nvigi(tmp_path / "models", gguf)
    assert folder.parent == tmp_path / "models" / "nvigi.plugin.gpt.ggml"
    assert re.fullmatch(r"\{[0-9A-F]{8}-[0-9A-F]{4}-5[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}\}", folder.name)
    assert sorted(p.name for p in folder.iterdir()) == ["nvigi.model.config.json", "tiny.gguf"]
    assert (folder / "tiny.gguf").read_bytes() == gguf.read_bytes()
    card = card_of(folder)
    assert card["name"] == "Tiny"
    assert card["n_layers"] == 3  # two and the head
    assert card["context_size"] == 4096
    assert card["model"]["local_files"] == ["tiny.gguf"] and card["model"]["ext"] == "gguf"
    assert "".join(card["chat_template"]) == NEMOTRON_CHAT_TEMPLATE
    assert write_nvigi(tmp_path / "models", gguf) == folder  # the same file, the same GUID


def test_templates_are_the_vendors_pieces(gguf: Path, tmp_path: Path) -> None:
    card = card_of(write_nvigi(tmp_path, gguf))
    assert card["prompt_template"] == [
        "<extra_id_0>System\n",
        "$system",
        "\n\n<extra_id_1>User\n",
        "$user",
        "\n<extra_id_1>Assistant\n",
        "$assistant",
    ]
    assert card["turn_template"] == ["\n<extra_id_1>User\n", "$user", "\n<extra_id_1>Assistant\n"]


def test_filled_templates_are_our_own_prompt(gguf: Path, tmp_path: Path) -> None:
    card = card_of(write_nvigi(tmp_path, gguf))
    talk = [Message(role="system", content="You are Tilda."), Message(role="user", content="Hello?")]
    first = filled(card["prompt_template"], system=talk[0].content, user=talk[1].content, assistant="")
    assert first == "".join(p.text for p in render(Conversation(messages=tuple(talk))))
    talk += [Message(role="assistant", content="Hm."), Message(role="user", content="Who are you?")]
    second = first + "Hm." + filled(card["turn_template"], user="Who are you?")
    assert second == "".join(p.text for p in render(Conversation(messages=tuple(talk))))


def test_memory_is_counted(gguf: Path, tmp_path: Path) -> None:
    whole = card_of(write_nvigi(tmp_path / "a", gguf))["vram"]
    short = card_of(write_nvigi(tmp_path / "b", gguf, context_size=1024))["vram"]
    config = load_model(gguf).config
    assert whole - short == round(3072 * 2 * 2 * config.num_hidden_layers * 2 * 16 / 2**20)  # 16-bit keys and values
    assert card_of(write_nvigi(tmp_path / "c", gguf, vram_mb=77))["vram"] == 77


def test_a_chosen_name_and_guid(gguf: Path, tmp_path: Path) -> None:
    folder = write_nvigi(tmp_path, gguf, name="Härrow", guid=NVIGI_NEMOTRON_GUID)
    assert folder.name == NVIGI_NEMOTRON_GUID
    assert card_of(folder)["name"] == "Härrow"


def test_what_cannot_be_written(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no GUID"):
        write_nvigi(tmp_path / "m", gguf, guid="8E31808B-C182-4016-9ED8-64804FF5B40D")
    with pytest.raises(DataError, match="context_size must be from 1 to 4096"):
        write_nvigi(tmp_path / "m", gguf, context_size=8192)
    with pytest.raises(DataError, match="vram_mb"):
        write_nvigi(tmp_path / "m", gguf, vram_mb=0)
    with pytest.raises(ModelFileError, match=r"must be a \.gguf"):
        write_nvigi(tmp_path / "m", gguf.rename(tmp_path / "tiny.bin"))
    assert not (tmp_path / "m").exists()


def test_a_folder_with_other_files_is_left_alone(gguf: Path, tmp_path: Path) -> None:
    folder = write_nvigi(tmp_path, gguf, guid=NVIGI_NEMOTRON_GUID)
    (folder / "adapter.gguf").write_bytes(b"GGUF")
    before = (folder / "nvigi.model.config.json").read_bytes()
    with pytest.raises(DataError, match=r"holds 'adapter\.gguf'"):
        write_nvigi(tmp_path, gguf, guid=NVIGI_NEMOTRON_GUID, name="Other")
    assert (folder / "nvigi.model.config.json").read_bytes() == before
