"""The same dialogue with other functions' names, so that a model has to read the schemas.

Hand-written functions are few, and their names give them away. Under other names, in another order, among others that
nobody needs, only the descriptions tell which is meant and what its arguments are called.
"""

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from understudy.data.recast import Recaster
from understudy.data.tool_corpora import is_grounded
from understudy.prompt.template import tool_function

__all__ = ["ToolShuffler", "recast_calls"]

Dialogue = dict[str, Any]

_OPAQUE = ("act", "action", "cmd", "do", "fn", "job", "op", "skill", "task", "tool")
_OPAQUE_KEYS = ("a", "arg", "field", "key", "p", "param", "value", "x")
_OTHER_VERBS = {
    "book": ("reserve",),
    "brew": ("make", "mix"),
    "buy": ("purchase",),
    "call": ("summon",),
    "check": ("inspect", "look_up"),
    "find": ("search",),
    "get": ("fetch", "read"),
    "give": ("grant", "hand_over"),
    "lend": ("loan",),
    "mark": ("draw", "note"),
    "open": ("unlock",),
    "order": ("request",),
    "play": ("perform",),
    "record": ("log",),
    "rent": ("hire_out", "let"),
    "repair": ("fix", "mend"),
    "sell": ("trade", "vend"),
    "send": ("dispatch",),
    "show": ("display",),
    "start": ("begin", "open"),
    "take": ("accept",),
    "write": ("note_down",),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


class ToolShuffler:
    """Renames, reorders and adds functions."""

    def __init__(self, rng: random.Random, pool: Iterable[Mapping[str, Any]]) -> None:
        """Note the functions that may be added.

        Args:
            rng: the source of chance.
            pool: schemas; of several with one name the first counts.
        """
        self._rng = rng
        known: dict[str, Mapping[str, Any]] = {}
        for schema in pool:
            known.setdefault(tool_function(schema)["name"], schema)
        self._pool = [(schema, _words_of(schema)) for schema in known.values()]

    def shuffled(self, record: Dialogue) -> Dialogue:
        """The dialogue with its functions under other names, and a few that nobody needs among them."""
        rng = self._rng
        tools = [*record["tools"], *self.strangers(record, rng.choice((0, 0, 1, 1, 2, 3)))]
        rng.shuffle(tools)
        taken: set[str] = set()
        renamed: dict[str, tuple[str, dict[str, str]]] = {}
        schemas = []
        for schema in tools:
            function = tool_function(schema)
            name = self._name(function, taken)
            schema_, keys = self._schema(function, name)
            renamed[function["name"]] = name, keys
            schemas.append(schema_)
        system = record["system"]
        for old, (new, _) in renamed.items():
            if len(_WORD.findall(old)) > 1:
                system = re.sub(rf"\b{re.escape(old)}\b", new, system)
        return {**record, "system": system, "tools": schemas, "turns": [_renamed(t, renamed) for t in record["turns"]]}

    def strangers(self, record: Dialogue, count: int) -> list[Mapping[str, Any]]:
        """Functions that have nothing to do with the dialogue: no word of theirs is in it or in its functions."""
        used = {tool_function(tool)["name"] for tool in record["tools"]}
        near = set().union(*(_words_of(tool) for tool in record["tools"]))
        for turn in record["turns"]:
            near |= _stems(turn.get("content") or "")
        far = [schema for schema, words in self._pool if not words & near and tool_function(schema)["name"] not in used]
        return self._rng.sample(far, min(count, len(far)))

    def _name(self, function: Mapping[str, Any], taken: set[str]) -> str:
        rng, words = self._rng, [word.lower() for word in _WORD.findall(function["name"])]
        how = rng.random()
        if how < 0.3 and function.get("description"):
            words = [rng.choice(_OPAQUE), rng.choice((str(rng.randint(1, 99)), rng.choice("abcdefghkmnpqrtuvwxyz")))]
        elif how < 0.6 and words[0] in _OTHER_VERBS:
            words = [*rng.choice(_OTHER_VERBS[words[0]]).split("_"), *words[1:]]
        name = _cased(words, rng.choice(("snake", "snake", "camel", "pascal")))
        while name in taken:
            name += str(rng.randint(2, 9))
        taken.add(name)
        return name

    def _schema(self, function: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, str]]:
        rng = self._rng
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        items = list(parameters.get("properties", {}).items())
        if rng.random() < 0.5:
            rng.shuffle(items)
        keys: dict[str, str] = {}
        properties: dict[str, Any] = {}
        for number, (key, shape) in enumerate(items, 1):
            words = [word.lower() for word in _WORD.findall(key)]
            how = rng.random()
            new = key
            if how < 0.15:
                new = f"{rng.choice(_OPAQUE_KEYS)}{number}"
            elif how < 0.35 and words:
                new = _cased(words, rng.choice(("snake", "camel")))
            new = key if new in properties or new in dict(items) else new
            keys[key], properties[new] = new, self._shape(shape)
            if how < 0.15:
                properties[new] = {**properties[new], "description": _meaning(shape, words)}
        required = [keys.get(key, key) for key in parameters.get("required", [])]
        other = {**parameters, "properties": properties, **({"required": required} if required else {})}
        return {"type": "function", "function": {**function, **self._told(function, name), "parameters": other}}, keys

    def _told(self, function: Mapping[str, Any], name: str) -> dict[str, str]:
        """Name and description; the latter in other words now and then."""
        text, how = str(function.get("description") or ""), self._rng.random()
        if text[1:2].islower() and how < 0.25:
            text = self._rng.choice(("Use this to ", "Call it to ", "Lets you ")) + text[0].lower() + text[1:]
        elif how < 0.4:
            text = text.removesuffix(".")
        return {"name": name, **({"description": text} if text else {})}

    def _shape(self, shape: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(shape.get("enum"), list):
            return shape
        return {**shape, "enum": self._rng.sample(shape["enum"], len(shape["enum"]))}


def recast_calls(record: Dialogue, recaster: Recaster) -> Dialogue:
    """The dialogue with other names and things, in calls, choices and results alike.

    Where an argument was said and the other one would not be ("3 eels" and "eel" become two fishes), it stays as it is.
    """
    other = recaster.recast()
    turns = []
    for turn in record["turns"]:
        calls = [{**call, "arguments": _mapped(call["arguments"], other)} for call in turn.get("tool_calls") or ()]
        content = other(turn.get("content") or "")
        turns.append({**turn, "content": content, **({"tool_calls": calls} if calls else {})})
    if _grounded(turns) != _grounded(record["turns"]):
        return record
    tools = []
    for tool in record["tools"]:
        function = tool_function(tool)
        parameters = _with_enums(function.get("parameters") or {}, other)
        tools.append({"type": "function", "function": {**function, "parameters": parameters}})
    context = [other(passage) for passage in record["context"]]
    return {**record, "system": other(record["system"]), "context": context, "tools": tools, "turns": turns}


def _renamed(turn: Mapping[str, Any], renamed: Mapping[str, tuple[str, Mapping[str, str]]]) -> dict[str, Any]:
    if not turn.get("tool_calls"):
        return dict(turn)
    calls = []
    for call in turn["tool_calls"]:
        name, keys = renamed[call["name"]]
        calls.append({"name": name, "arguments": {keys.get(key, key): v for key, v in call["arguments"].items()}})
    return {**turn, "tool_calls": calls}


def _grounded(turns: Sequence[Mapping[str, Any]]) -> list[bool]:
    said, found = "", []
    for turn in turns:
        for call in turn.get("tool_calls") or ():
            found += [is_grounded(value, said) for value in call["arguments"].values()]
        said += f" {(turn.get('content') or '').lower()}"
    return found


def _mapped(value: Any, other: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return other(value)
    if isinstance(value, list):
        return [_mapped(one, other) for one in value]
    if isinstance(value, dict):
        return {key: _mapped(one, other) for key, one in value.items()}
    return value


def _with_enums(schema: Any, other: Callable[[str], str]) -> Any:
    if isinstance(schema, list):
        return [_with_enums(one, other) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _mapped(one, other) if key == "enum" else _with_enums(one, other) for key, one in schema.items()}


def _meaning(shape: Mapping[str, Any], words: Sequence[str]) -> str:
    text = " ".join(words).capitalize()
    return f"{text}: {shape['description']}" if shape.get("description") else text


def _cased(words: Sequence[str], style: str) -> str:
    if style == "snake":
        return "_".join(words)
    joined = "".join(word.capitalize() for word in words)
    return joined if style == "pascal" else joined[:1].lower() + joined[1:]


def _words_of(schema: Mapping[str, Any]) -> set[str]:
    function = tool_function(schema)
    return _stems(" ".join([*_WORD.findall(function["name"]), function.get("description") or ""])) - _STEMS_OF_ALL


def _stems(text: str) -> set[str]:
    """Beginnings of words, so that "book" and "booking" are one."""
    return {word.lower()[:4] for word in re.findall(r"[A-Za-z]{3,}", text)}


_STEMS_OF_ALL = _stems(
    "about and are away back day down for from give has have how its let list look more name new not number off one "
    "out over person place player put say see set she some something take tell that the their them they this time to "
    "true type what when where which who will with you your"
)
