"""Public dialogues with function calls, in the form of `worlds/README.md`: coffee orders, STAR, Snips.

What a function was told but nobody said would teach a model to invent; a dialogue ends before such a call.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.data.files import read_bytes, read_json_lines
from understudy.errors import DataError

__all__ = ["is_grounded", "read_coffee_orders", "read_snips", "read_star"]

Dialogue = dict[str, Any]
Turn = dict[str, Any]

_MAX_CHARS = 2200  # of turns: with a few schemas most fit into a fine-tuning sequence
_MAX_CATEGORIES = 8
_SNIPS_SHARE = 0.2
_REQUEST = "RequestType"
_EQUAL = re.compile(r'api\.is_equal_to\(\s*"?([^"()]*)"?\s*\)')
_NUMBERS = dict(
    enumerate(
        [
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
        ]
    )
)


def read_coffee_orders(folder: Path) -> Iterator[Dialogue]:
    """Taskmaster-4: orders at a coffee house, written by many hands.

    Raises:
        DataError: the file is missing or damaged.
    """
    rng, about = random.Random(811), _about("coffee")

    def convert(record: Mapping[str, Any]) -> Dialogue | None:
        turns = _cut(_joined(map(_coffee_turn, record["messages"])))
        used = {call["name"] for turn in turns for call in turn.get("tool_calls", ())}
        if not used or not used <= about["tools"].keys():
            return None
        tools = [_schema(name, *about["tools"][name]) for name in _offered(rng, about["tools"], used)]
        return _dialogue(rng.choice(about["system"]), tools, turns)

    return _converted(folder / "fc" / "taskmaster4_coffee.jsonl", convert)


def read_star(folder: Path) -> Iterator[Dialogue]:
    """STAR: a clerk asks for what is missing, calls, reads the result out, and stays polite with difficult people.

    Raises:
        DataError: a file is missing or damaged.
    """
    rng, about = random.Random(812), _about("star")
    path = folder / "fc" / "star_apis.json"
    try:
        apis = json.loads(read_bytes(path))
        schemas = {name: _star_schema(name, about[name][0], apis[name]) for name in about if name in apis}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has another form than expected: {error!r}; fetch it again.") from error

    def convert(record: Mapping[str, Any]) -> Dialogue | None:
        turns = _to_the_point(_cut(_joined(_star_turns(record["messages"], schemas))))
        used = [call["name"] for turn in turns for call in turn.get("tool_calls", ())]
        if not used:
            return None
        tools = [schemas[name] for name in _offered(rng, schemas, set(used))]
        return _dialogue(about[used[0]][1], tools, turns)

    return _converted(folder / "fc" / "star.jsonl", convert)


def read_snips(folder: Path) -> Iterator[Dialogue]:
    """Snips: one spoken request, one call; a fifth of them, so that single turns do not outweigh dialogues.

    Raises:
        DataError: the file is missing or damaged.
    """
    rng, about = random.Random(813), _about("snips")

    def convert(record: Mapping[str, Any]) -> Dialogue | None:
        call = {key: record["call"][key] for key in ("name", "arguments")}
        _, properties, required = about["tools"].get(call["name"], ("", {}, [""]))
        is_whole = set(required) <= call["arguments"].keys() <= properties.keys()
        is_chosen = rng.random() < _SNIPS_SHARE
        if not (is_chosen and is_whole and is_grounded(call["arguments"], record["text"].lower())):
            return None
        names = _offered(rng, about["tools"], {call["name"]})
        tools = [_schema(name, *about["tools"][name]) for name in names]
        turns = [{"role": "user", "content": record["text"]}, _turn("assistant", calls=[call])]
        return _dialogue(rng.choice(about["system"]), tools, turns)

    return _converted(folder / "fc" / "snips_intents.jsonl", convert)


def is_grounded(value: Any, said: str) -> bool:
    """Whether an argument was said: a text of it in any case, a number in digits or as a word; yes and no always are.

    Args:
        value: of an argument, JSON.
        said: all that the player and the functions said, in lower case.
    """
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, Mapping):
        return all(is_grounded(one, said) for one in value.values())
    if isinstance(value, list):
        return all(is_grounded(one, said) for one in value)
    if isinstance(value, int):
        return bool(re.search(rf"\b(?:{value}|{_NUMBERS.get(value, value)})\b", said))
    return str(value).lower().strip() in said


def _about(corpus: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name("tool_corpora.json").read_text(encoding="utf-8"))
    about: dict[str, Any] = content[corpus]
    return about


def _converted(path: Path, convert: Callable[[Mapping[str, Any]], Dialogue | None]) -> Iterator[Dialogue]:
    for number, record in enumerate(read_json_lines(path), 1):
        try:
            dialogue = convert(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number} has another form than expected: {error!r}; fetch it again."
            ) from error
        if dialogue:
            yield dialogue


def _dialogue(system: str, tools: list[dict[str, Any]], turns: list[Turn]) -> Dialogue:
    return {"system": system, "context": [], "tools": tools, "turns": turns}


def _turn(role: str, content: str = "", calls: Sequence[Mapping[str, Any]] = ()) -> Turn:
    turn: Turn = {"role": role, "content": " ".join(content.split()) if role != "tool" else content}
    return {**turn, "tool_calls": list(calls)} if calls else turn


def _offered(rng: random.Random, known: Mapping[str, Any], used: set[str]) -> list[str]:
    """Names of the functions that a dialogue offers: those that it uses and a few others, in any order."""
    others = sorted(known.keys() - used)
    count = min(len(others), rng.choice((0, 1, 1, 2)))
    names = [*sorted(used), *rng.sample(others, count)]
    rng.shuffle(names)
    return names


def _schema(name: str, description: str, properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    """A schema from the short form of `tool_corpora.json`: a type and a description, or a description of a text."""
    kinds: dict[str, dict[str, Any]] = {
        "string": {"type": "string"},
        "integer": {"type": "integer"},
        "texts": {"type": "array", "items": {"type": "string"}},
        "objects": {"type": "array", "items": {"type": "object"}},
    }
    shapes = {}
    for key, short in properties.items():
        kind, meaning = ("string", short) if isinstance(short, str) else short
        shapes[key] = {**kinds[kind], **({"description": meaning} if meaning else {})}
    return _function(name, description, shapes, required)


def _function(name: str, description: str, properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _coffee_turn(message: Mapping[str, Any]) -> Turn | None:
    if message["role"] == "tool":
        return _turn("tool", json.dumps(message["content"], ensure_ascii=False))
    calls = []
    for call in message.get("calls", ()):
        values = {key: value.strip() if isinstance(value, str) else value for key, value in call["arguments"].items()}
        if "quantity" in values:
            if not values["quantity"].isdigit():
                return None
            values["quantity"] = int(values["quantity"])
        calls.append({"name": call["name"], "arguments": values})
    return _turn(message["role"], message.get("content") or "", calls)


def _star_schema(name: str, description: str, api: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for one in api["input"]:
        shape = {"Integer": {"type": "integer"}, "Boolean": {"type": "boolean"}}.get(one["Type"], {"type": "string"})
        categories = one.get("Categories", [])
        if one["Type"] == "CategoricalMultiple":
            continue
        if 0 < len(categories) <= _MAX_CATEGORIES:
            shape = {"type": "string", "enum": categories}
        properties[one["Name"]] = {**shape, "description": one["ReadableName"]}
    return _function(name, description, properties, api["required"])


def _star_turns(messages: Sequence[Mapping[str, Any]], schemas: Mapping[str, Any]) -> Iterator[Turn | None]:
    said = ""
    for message in messages:
        if message["role"] == "tool":
            content = json.dumps(message["content"], ensure_ascii=False)
            said += f" {content.lower()}"
            yield _turn("tool", content)
            continue
        if message["role"] == "user":
            said += f" {message['content'].lower()}"
        calls = []
        for call in message.get("calls", ()):
            values = _star_values(call["arguments"], schemas[call["name"]]["function"]["parameters"], said)
            if values is None:
                yield None
                return
            calls.append({"name": call["name"], "arguments": values})
        yield _turn(message["role"], message.get("content") or "", calls)


def _star_values(raw: Mapping[str, str], parameters: Mapping[str, Any], said: str) -> dict[str, Any] | None:
    """Arguments in their types; None where one does not fit, is missing, or was never said."""
    if not set(parameters["required"]) <= raw.keys() <= parameters["properties"].keys():
        return None
    values: dict[str, Any] = {}
    for key, text in raw.items():
        plain = match[1] if (match := _EQUAL.fullmatch(text)) else text
        value = _star_value(plain, parameters["properties"][key])
        if value is None or not (key == _REQUEST or is_grounded(value, said)):
            return None
        values[key] = value
    return values


def _star_value(text: str, shape: Mapping[str, Any]) -> Any:
    if text.startswith("api."):
        return None
    if shape["type"] == "integer":
        return int(text) if text.isdigit() else None
    if shape["type"] == "boolean":
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower())
    return text if text in shape.get("enum", [text]) else None


def _joined(turns: Iterable[Turn | None]) -> list[Turn]:
    """Turns from the player's first on, neighbours of one role as one; up to the first that is None or out of place."""
    out: list[Turn] = []
    for turn in turns:
        last = out[-1] if out else {}
        if turn is None or (turn["role"] == "tool" and not (last.get("tool_calls") or last.get("role") == "tool")):
            break
        if not out and turn["role"] != "user":
            continue
        if turn["role"] == last.get("role") != "tool":
            if last.get("tool_calls"):
                break
            out[-1] = {**last, **turn, "content": f"{last['content']} {turn['content']}".strip()}
        elif last.get("tool_calls") and turn["role"] != "tool":
            break
        else:
            out.append(turn)
    return out


def _cut(turns: list[Turn]) -> list[Turn]:
    """Whole exchanges from the beginning, as many as are short enough together; the last ends on words."""
    length, end = 0, 0
    for number, turn in enumerate(turns):
        length += len(turn["content"]) + len(json.dumps(turn.get("tool_calls", "")))
        if length > _MAX_CHARS:
            break
        if turn["role"] == "assistant" and turn["content"] and not turn.get("tool_calls"):
            end = number + 1
    return turns[:end]


def _to_the_point(turns: list[Turn]) -> list[Turn]:
    """Without what is asked after the last call: it prepares another, which was cut off."""
    last = max((number for number, turn in enumerate(turns) if turn.get("tool_calls")), default=len(turns))
    spoken = [number for number, turn in enumerate(turns) if turn["role"] == "assistant" and number > last]
    end = spoken[0] + 1 if spoken else len(turns)
    for number in spoken[1:]:
        if "?" in turns[number]["content"]:
            break
        end = number + 1
    return turns[:end]
