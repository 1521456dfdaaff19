"""The folder that the GGML GPT plugin of NVIDIA's In-Game Inferencing SDK (NVIGI) loads a GGUF from.

Facts from NVIGI's ProgrammingGuideAI.md and `nvigi.ai/ai.h` (1.1 to 1.6). Under the root that a game names lies
`nvigi.plugin.gpt.ggml/{GUID}/` with the weights and `nvigi.model.config.json`. Releases before 1.6 build prompts from
`prompt_template` and `turn_template`; 1.6 takes the Jinja `chat_template`, lines of which are joined as they are. Older
ones take the first `.gguf` of the folder and stumble over names without an extension, so the folder holds two files.
"""

import hashlib
import json
import math
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from understudy.errors import DataError, ModelFileError
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.prompt import NEMOTRON_CHAT_TEMPLATE, Conversation, Message, Renderer

__all__ = ["NVIGI_NEMOTRON_GUID", "write_nvigi"]

NVIGI_NEMOTRON_GUID = "{8E31808B-C182-4016-9ED8-64804FF5B40D}"
"""The vendor's Nemotron Mini 4B: games that ask for it get the model that stands under its name."""

_PLUGIN = "nvigi.plugin.gpt.ggml"
_CONFIG = "nvigi.model.config.json"
_GUID = re.compile(r"\{[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")
_NAMESPACE = uuid.UUID("5f0c7f9e-3b52-5a57-9c5e-6f1f0d7b7a11")  # ours, for GUIDs made from weights
_BATCH_TOKENS = 512  # llama.cpp's physical batch: rows of logits that its largest buffer holds
_HASH_BYTES = 1 << 20


def write_nvigi(
    root: Path,
    gguf: Path,
    *,
    name: str | None = None,
    guid: str | None = None,
    context_size: int | None = None,
    vram_mb: int | None = None,
) -> Path:
    """Write a GGUF as a model of NVIGI; the configuration comes last, so a torn folder is no model.

    Args:
        root: the models' root, which a game gives as `utf8PathToModels`; made if missing.
        gguf: the weights; copied.
        name: what NVIGI lists; the file's `general.name`, else its stem, by default.
        guid: registry format with braces; made from the weights by default, so the same file has the same GUID.
        context_size: tokens; at most what the model has, which is the default.
        vram_mb: MiB of graphics memory. By default the weights but the input table, a 16-bit KV cache of the context,
            and 512 rows of logits; NVIGI offloads fewer layers to a GPU where its budget is smaller.

    Returns:
        The model's folder, `root/nvigi.plugin.gpt.ggml/{GUID}`.

    Raises:
        ModelFileError: the GGUF is no model.
        DataError: a GUID or size out of range, or the disk refuses.
    """
    if gguf.suffix != ".gguf":
        raise ModelFileError(f"{gguf} must be a .gguf file: NVIGI finds weights by that ending.")
    files = load_model(gguf)
    longest = files.config.max_position_embeddings
    context_size = longest if context_size is None else context_size
    if not 1 <= context_size <= longest:
        raise DataError(f"context_size must be from 1 to {longest}, got {context_size}.")
    vram_mb = _vram_mb(files, context_size) if vram_mb is None else vram_mb
    if vram_mb < 1:
        raise DataError(f"vram_mb must be at least 1, got {vram_mb}.")
    guid = _guid_of(gguf) if guid is None else guid
    if not _GUID.fullmatch(guid):
        raise DataError(f"{guid!r} is no GUID; expected one such as {NVIGI_NEMOTRON_GUID}.")
    stated = files.metadata.get("general.name")
    card = _card(
        files,
        name=name or (stated if isinstance(stated, str) and stated else gguf.stem),
        file_name=gguf.name,
        context_size=context_size,
        vram_mb=vram_mb,
    )
    folder = root / _PLUGIN / guid
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_alone(folder, gguf.name)
        _copy(gguf, folder / gguf.name)
        part = folder / f"{_CONFIG}.part"
        part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(folder / _CONFIG)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; make room or choose another folder.") from error
    return folder


def _card(files: LoadedModel, *, name: str, file_name: str, context_size: int, vram_mb: int) -> dict[str, Any]:
    template = files.chat_template or NEMOTRON_CHAT_TEMPLATE
    prompt, turn = _pieces(files, template)
    return {
        "name": name,
        "vram": vram_mb,
        "n_layers": files.config.num_hidden_layers + 1,  # the head counts as one
        "context_size": context_size,
        "model": {"ext": "gguf", "notes": "Written by Understudy.", "local_files": [file_name]},
        "prompt_template": prompt,
        "turn_template": turn,
        "chat_template": template.splitlines(keepends=True),
    }


def _pieces(files: LoadedModel, template: str) -> tuple[list[str], list[str]]:
    """The template cut at what NVIGI fills in: of the first prompt, and of every further turn."""
    renderer = Renderer(
        files.tokenizer,
        chat_template=template,
        bos_token_id=files.config.bos_token_id,
        eos_token_id=files.config.eos_token_id,
    )
    opening = (Message(role="system", content="$system"), Message(role="user", content="$user"))
    answered = (*opening, Message(role="assistant", content="$assistant"), Message(role="user", content="$question"))
    first = "".join(piece.text for piece in renderer.render(Conversation(messages=opening)))
    second = "".join(piece.text for piece in renderer.render(Conversation(messages=answered)))
    _, found, turn = second.partition("$assistant")
    if not found or "$question" not in turn or "$user" not in first:
        raise ModelFileError(f"{files.path}: the chat template leaves out what is said; NVIGI needs it whole.")
    return [*_cut(first), "$assistant"], list(_cut(turn.replace("$question", "$user")))


def _cut(text: str) -> Iterator[str]:
    return (piece for piece in re.split(r"(\$system|\$user)", text) if piece)


def _vram_mb(files: LoadedModel, context_size: int) -> int:
    config = files.config
    stored = sum(weight.num_bytes for weight in files.weights.values())
    table = 0 if config.tie_word_embeddings else files.weights["model.embed_tokens.weight"].num_bytes
    cache = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * context_size
    logits = 4 * config.vocab_size * min(_BATCH_TOKENS, context_size)
    return math.ceil((stored - table + cache + logits) / (1 << 20))


def _guid_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            digest.update(piece)
    return f"{{{str(uuid.uuid5(_NAMESPACE, digest.hexdigest())).upper()}}}"


def _check_alone(folder: Path, file_name: str) -> None:
    known = {file_name, f"{file_name}.part", _CONFIG, f"{_CONFIG}.part"}
    if others := sorted(path.name for path in folder.iterdir() if path.name not in known):
        raise DataError(
            f"{folder} holds {others[0]!r}; NVIGI may take it for the model: choose another root or GUID, or move it."
        )


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, part)
    part.replace(target)
