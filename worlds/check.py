"""Check the worlds: schema, references, lengths, repetition. Usage: python worlds/check.py [FOLDER ...] [--table]."""

import collections
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
EVALUATION_ONLY = frozenset({"cloudmere"})
KINDS = ("roleplay", "rag", "tool", "tool_multi", "guard")

_CHARACTER_KEYS = (
    *("id", "name", "role", "description", "personality", "speech_style", "scenario", "first_mes"),
    *("knowledge", "goals", "secret", "tools"),
)
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}
_MIN_LORE, _MIN_CHARACTERS, _MIN_DIALOGUES = 24, 12, 130
_LORE_WORDS = range(35, 126)
_MAX_LINE_WORDS = 60
_MAX_OPENING_SHARE = 0.06
_COMMON_OPENINGS = frozenset({"I", "The", "You", "No", "A", "It", "We", "My", "That"})

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """One folder of dialogues; `world` is None for the everyday sets, whose characters live for one dialogue."""

    name: str
    world: Json | None
    characters: list[Json]
    tools: dict[str, Json]
    dialogues: list[Json]

    @property
    def lore(self) -> dict[str, str]:
        """Lore texts by id."""
        return {entry["id"]: entry["text"] for entry in self.world["lore"]} if self.world else {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What the data card states of a folder; a spoken turn is a line of the character."""

    dialogues: int
    spoken_turns: int
    words: int
    calls: int


def read_folder(path: Path) -> Folder:
    """Read a folder of this format."""
    lines = (path / "dialogues.jsonl").read_text("utf-8").splitlines()
    dialogues = [json.loads(line) for line in lines if line.strip()]
    if not (path / "world.json").exists():
        return Folder(name=path.name, world=None, characters=[], tools={}, dialogues=dialogues)
    world, characters, tools = (
        json.loads((path / f"{part}.json").read_text("utf-8")) for part in ("world", "characters", "tools")
    )
    by_name = {tool["function"]["name"]: tool["function"] for tool in tools}
    return Folder(name=path.name, world=world, characters=characters, tools=by_name, dialogues=dialogues)


def spoken(dialogue: Json) -> list[str]:
    """The character's lines."""
    return [turn["content"] for turn in dialogue["turns"] if turn["role"] == "assistant" and turn.get("content")]


def count(folder: Folder) -> Counts:
    """Count what the data card states."""
    lines = [line for dialogue in folder.dialogues for line in spoken(dialogue)]
    turns = [turn for dialogue in folder.dialogues for turn in dialogue["turns"]]
    return Counts(
        dialogues=len(folder.dialogues),
        spoken_turns=len(lines),
        words=sum(len(line.split()) for line in lines),
        calls=sum(len(turn.get("tool_calls") or []) for turn in turns),
    )


def check(folder: Folder) -> list[str]:
    """All problems of a folder, one sentence each."""
    problems = [*_world_problems(folder), *_repetition_problems(folder)] if folder.world is not None else []
    seen: set[str] = set()
    for dialogue in folder.dialogues:
        where = dialogue.get("id", "a dialogue without id")
        if where in seen:
            problems.append(f"{where}: id used twice")
        seen.add(where)
        problems += [f"{where}: {problem}" for problem in _dialogue_problems(folder, dialogue)]
    return problems


def _world_problems(folder: Folder) -> Iterator[str]:
    parts = (("lore entries", len(folder.lore), _MIN_LORE), ("characters", len(folder.characters), _MIN_CHARACTERS))
    for what, number, least in (*parts, ("dialogues", len(folder.dialogues), _MIN_DIALOGUES)):
        if number < least:
            yield f"only {number} {what}, at least {least} expected"
    for key, text in folder.lore.items():
        if len(text.split()) not in _LORE_WORDS:
            yield f"{key}: {len(text.split())} words"
    for character in folder.characters:
        where = f"character {character.get('id')}"
        yield from (f"{where}: no {key}" for key in _CHARACTER_KEYS if key not in character)
        yield from (f"{where}: unknown lore {k}" for k in character.get("knowledge", []) if k not in folder.lore)
        yield from (f"{where}: unknown tool {t}" for t in character.get("tools", []) if t not in folder.tools)


def _dialogue_problems(folder: Folder, dialogue: Json) -> Iterator[str]:
    if dialogue.get("kind") not in KINDS:
        yield f"kind {dialogue.get('kind')!r} is none of {', '.join(KINDS)}"
    if not str(dialogue.get("system", "")).strip():
        yield "no system prompt"
    if dialogue.get("kind") == "rag" and not dialogue.get("context"):
        yield "rag without context"
    if folder.world is not None:
        yield from _reference_problems(folder, dialogue)
    turns = dialogue.get("turns", [])
    if not turns or turns[0]["role"] != "user":
        yield "does not start with the player"
        return
    if turns[-1]["role"] != "assistant" or not turns[-1].get("content"):
        yield "does not end on a line of the character"
    for key in ("answers", "checks"):
        if key in dialogue and len(dialogue[key]) != len(spoken(dialogue)):
            yield f"{len(dialogue[key])} {key} for {len(spoken(dialogue))} spoken turns"
    yield from _turn_problems(dialogue, _offered(folder, dialogue))


def _reference_problems(folder: Folder, dialogue: Json) -> Iterator[str]:
    if dialogue.get("character") not in {character["id"] for character in folder.characters}:
        yield f"unknown character {dialogue.get('character')!r}"
    passages = set(folder.lore.values())
    if any(text not in passages for text in dialogue.get("context", [])):
        yield "a context text is not a lore entry"
    yield from (f"unknown tool {name}" for name in dialogue.get("tools", []) if name not in folder.tools)


def _offered(folder: Folder, dialogue: Json) -> dict[str, Json]:
    """Schemas of the functions that a dialogue offers: named ones of the world, or its own."""
    tools = dialogue.get("tools", [])
    own = [tool["function"] for tool in tools if isinstance(tool, dict)]
    named = [folder.tools[tool] for tool in tools if isinstance(tool, str) and tool in folder.tools]
    return {schema["name"]: schema for schema in (*own, *named)}


def _turn_problems(dialogue: Json, offered: dict[str, Json]) -> Iterator[str]:
    previous = None
    for turn in dialogue["turns"]:
        role, content = turn["role"], turn.get("content") or ""
        if role not in ("user", "assistant", "tool"):
            yield f"role {role!r}"
        if role == "tool":
            if previous not in ("call", "tool"):
                yield "a tool's answer without a call"
            if not _is_json(content):
                yield "a tool's answer is not JSON"
        for call in turn.get("tool_calls") or []:
            yield from _call_problems(call, offered)
        if role == "assistant" and len(content.split()) > _MAX_LINE_WORDS:
            yield f"a line of {len(content.split())} words"
        if role == "assistant" and "*" in content:
            yield "an asterisk in a line"
        previous = "call" if turn.get("tool_calls") else role


def _call_problems(call: Json, offered: dict[str, Json]) -> Iterator[str]:
    schema = offered.get(call["name"])
    if schema is None:
        yield f"calls {call['name']}, which was not offered"
        return
    properties = schema["parameters"].get("properties", {})
    for key in schema["parameters"].get("required", []):
        if key not in call["arguments"]:
            yield f"{call['name']} lacks {key}"
    for key, value in call["arguments"].items():
        if key not in properties:
            yield f"{call['name']} has no argument {key}"
        elif not _fits(value, properties[key]):
            yield f"{call['name']}.{key} is {value!r}, which its schema does not allow"


def _fits(value: Any, schema: Json) -> bool:
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, bool):
        return schema.get("type") in ("boolean", None)
    return isinstance(value, _JSON_TYPES.get(str(schema.get("type")), object))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _repetition_problems(folder: Folder) -> Iterator[str]:
    """Lines said again, and openings too frequent."""
    lines = [line for dialogue in folder.dialogues for line in spoken(dialogue)]
    asked = [turn["content"] for dialogue in folder.dialogues for turn in dialogue["turns"] if turn["role"] == "user"]
    for said in (lines, asked):
        for line, times in collections.Counter(said).items():
            if times > 2 or (times > 1 and len(line) > 40):
                yield f"used {times} times: {line[:60]}"
    for word, times in collections.Counter(line.split()[0] for line in lines).items():
        if times > _MAX_OPENING_SHARE * len(lines) and word not in _COMMON_OPENINGS:
            yield f"{times} of {len(lines)} lines start with {word!r}"


def folders() -> list[Path]:
    """All folders beside this file that hold dialogues."""
    return sorted(path.parent for path in ROOT.glob("*/dialogues.jsonl"))


def table() -> str:
    """The data card's table of counts."""
    rows = ["| folder | dialogues | spoken turns | words spoken | calls |", "|---|---|---|---|---|"]
    totals: collections.Counter[str] = collections.Counter()
    for path in folders():
        counts = dataclasses.asdict(count(read_folder(path)))
        if path.name not in EVALUATION_ONLY:
            totals.update(counts)
        mark = " (evaluation only)" if path.name in EVALUATION_ONLY else ""
        rows.append(f"| {path.name}{mark} | " + " | ".join(f"{n:,}" for n in counts.values()) + " |")
    return "\n".join([*rows, "| **for training** | " + " | ".join(f"{n:,}" for n in totals.values()) + " |"])


def main(arguments: list[str]) -> int:
    """Print each folder's counts and problems; 1 if there are any."""
    if arguments == ["--table"]:
        print(table())
        return 0
    num_problems = 0
    for path in [Path(argument) for argument in arguments] or folders():
        folder = read_folder(path)
        problems = check(folder)
        num_problems += len(problems)
        print(folder.name, count(folder))
        print("".join(f"  {problem}\n" for problem in problems), end="")
    return 1 if num_problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
