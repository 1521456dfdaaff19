"""Tools that a character may call, with requests whose words give the arguments."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from .content import (
    COMMON,
    Entry,
    Maker,
    Slots,
    Templates,
    entries,
    local_lists,
    mapping,
    need,
    parse,
    strings,
)
from .numbers import to_number, whole_number
from .text import Template

__all__ = ["Node", "Offer", "Outcome", "Request", "Tool", "ToolKit", "call_arguments", "fill", "leaves", "result_text"]

Node = Template | int | float | bool | None | dict[str, "Node"] | list["Node"]


@dataclass(frozen=True, slots=True)
class Request:
    """Player lines and the arguments that they stand for."""

    lines: Templates
    arguments: dict[str, Node]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result and what is said after it; `slots` are the values that the result shows."""

    result: Node
    slots: frozenset[str]
    says: Templates


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool with all its wordings."""

    name: str
    description: str
    parameters: dict[str, object]
    slots: tuple[tuple[str, Maker], ...]
    requests: tuple[Request, ...]
    results: tuple[Outcome, ...]
    fails: tuple[Outcome, ...]


@dataclass(slots=True)
class Offer:
    """A tool as one dialogue offers it, perhaps with other names."""

    tool: Tool
    name: str
    renamed: dict[str, str]
    schema: dict[str, object]


class ToolKit:
    """Loads tools.json and offers tools under varying names."""

    def __init__(self, folder: Path, slots: Slots, rng: random.Random, shapes: Entry) -> None:
        """Compiles the tools.

        Args:
            folder: where the content files lie.
            slots: makers of slot values.
            rng: the source of chance.
            shapes: the content of prompts.json, for other parameter names.
        """
        self._rng = rng
        found = entries(folder / "tools.json")
        for entry in found:
            slots.learn(local_lists(entry, "tools.json"))
        self.tools = tuple(_load_tool(entry, slots) for entry in found)
        names = mapping(shapes, "param_names", "prompts.json")
        self._other = {key: strings(names, key, "prompts.json:param_names") for key in names}
        groups = cast(list[list[str]], shapes.get("similar_tools", []))
        self._similar = {
            name: frozenset(other for group in groups if name in group for other in group)
            for name in (tool.name for tool in self.tools)
        }

    def offers(self, count: int) -> list[Offer]:
        """Draws tools to offer."""
        return [self._offer(tool) for tool in self._rng.sample(self.tools, count)]

    def outsider(self, offers: list[Offer]) -> Tool | None:
        """Draws a tool whose requests none of the offered tools could serve."""
        offered = {offer.tool.name for offer in offers}
        for _ in range(5):
            tool = self._rng.choice(self.tools)
            if tool.name not in offered and not self._similar[tool.name] & offered:
                return tool
        return None

    def _offer(self, tool: Tool) -> Offer:
        rng = self._rng
        name = _recase(tool.name) if rng.random() < 0.2 else tool.name
        parameters = copy.deepcopy(tool.parameters)
        properties = cast(dict[str, dict[str, object]], parameters.get("properties", {}))
        renamed: dict[str, str] = {}
        for param in properties:
            if param in self._other and rng.random() < 0.25:
                new = rng.choice(self._other[param])
                if new not in properties and new not in renamed.values():
                    renamed[param] = new
        parameters["properties"] = {renamed.get(key, key): value for key, value in properties.items()}
        required = cast(list[str], parameters.get("required", []))
        if required:
            parameters["required"] = [renamed.get(key, key) for key in required]
        function = {"name": name, "description": tool.description, "parameters": parameters}
        return Offer(tool, name, renamed, {"type": "function", "function": function})

    def values(self, tool: Tool) -> dict[str, str]:
        """Draws values for the slots of a tool, no two the same."""
        out: dict[str, str] = {}
        for slot, make in tool.slots:
            value = make()
            for _ in range(4):
                if value not in out.values():
                    break
                value = make()
            out[slot] = value
        return out


def call_arguments(offer: Offer, request: Request, env: Mapping[str, str]) -> dict[str, object]:
    """Fills the arguments of a call and turns them into the types of the schema."""
    where = f"tools.json:{offer.tool.name}"
    properties = mapping(offer.tool.parameters, "properties", where)
    out: dict[str, object] = {}
    for param, node in request.arguments.items():
        schema = mapping(properties, param, where)
        out[offer.renamed.get(param, param)] = _typed(fill(node, env), schema, where)
    return out


def _typed(value: object, schema: Entry, where: str) -> object:
    """Turns number words into numbers where the schema asks for them."""
    if isinstance(value, list):
        items = mapping(schema, "items", where)
        return [_typed(one, items, where) for one in value]
    if isinstance(value, dict):
        inner = mapping(schema, "properties", where)
        return {key: _typed(one, mapping(inner, key, where), where) for key, one in value.items()}
    if isinstance(value, str) and schema.get("type") in ("integer", "number"):
        number = to_number(value)
        if number is None:
            raise ValueError(f"{where}: {value!r} is no number")
        return number
    return value


def leaves(value: object) -> list[str]:
    """Returns all texts and numbers inside a JSON value, as text."""
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [] if isinstance(value, bool) or value is None else [str(value)]


def result_text(outcome: Outcome, env: Mapping[str, str]) -> str:
    """Returns a tool's answer as JSON; whole numbers become numbers."""
    return json.dumps(_plain(fill(outcome.result, env)), separators=(",", ":"), ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    number = whole_number(value) if isinstance(value, str) else None
    return value if number is None else number


def fill(node: Node, env: Mapping[str, str]) -> object:
    """Renders all templates of a JSON value."""
    if isinstance(node, Template):
        return node.render(env)
    if isinstance(node, dict):
        return {key: fill(one, env) for key, one in node.items()}
    if isinstance(node, list):
        return [fill(one, env) for one in node]
    return node


def _compile(value: object, known: set[str], where: str) -> Node:
    if isinstance(value, str):
        return Template(value, known, where)
    if isinstance(value, dict):
        return {str(key): _compile(one, known, where) for key, one in value.items()}
    if isinstance(value, list):
        return [_compile(one, known, where) for one in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ValueError(f"{where}: odd value {value!r}")


def _needs(node: Node) -> frozenset[str]:
    if isinstance(node, Template):
        return node.needs
    if isinstance(node, dict):
        return frozenset().union(*(_needs(one) for one in node.values()))
    if isinstance(node, list):
        return frozenset().union(*(_needs(one) for one in node))
    return frozenset()


def _tool_slots(entry: Entry, slots: Slots, where: str) -> tuple[tuple[str, Maker], ...]:
    lists = local_lists(entry, where)
    properties = mapping(mapping(entry, "parameters", where), "properties", where)
    out = []
    for slot, kind in mapping(entry, "slots", where).items():
        name = str(kind)
        if name.startswith("enum:"):
            options = strings(mapping(properties, name[5:], where), "enum", where)
            out.append((slot, slots.maker(name, {**lists, name: options}, where)))
        else:
            out.append((slot, slots.maker(name, lists, where)))
    return tuple(out)


def _load_request(entry: Entry, known: set[str], where: str) -> Request:
    arguments = {key: _compile(value, known, where) for key, value in mapping(entry, "arguments", where).items()}
    used = frozenset().union(*(_needs(node) for node in arguments.values()))
    lines = parse(strings(entry, "requests", where), {*COMMON, *known}, where)
    return Request(need(tuple(t for t in lines if used <= t.needs), where, "requests"), arguments)


def _load_tool(entry: Entry, slots: Slots) -> Tool:
    where = f"tools.json:{entry.get('name')}"
    makers = _tool_slots(entry, slots, where)
    known = {slot for slot, _ in makers}
    variants = cast(list[Entry], entry.get("variants", []))
    plain = [entry] if entry.get("requests") else []
    says = parse(strings(entry, "says", where), {*COMMON, *known}, where)
    results = [(_compile(result, known, where), says) for result in cast(list[object], entry.get("results", []))]
    fails = [
        (_compile(fail["result"], known, where), parse(strings(fail, "says", where), known, where))
        for fail in cast(list[Entry], entry.get("fail", []))
    ]
    return Tool(
        name=str(entry["name"]),
        description=str(entry["description"]),
        parameters=mapping(entry, "parameters", where),
        slots=makers,
        requests=tuple(_load_request(one, known, where) for one in (*plain, *variants)),
        results=tuple(Outcome(node, _needs(node), lines) for node, lines in results),
        fails=tuple(Outcome(node, _needs(node), lines) for node, lines in fails),
    )


def _recase(name: str) -> str:
    """Turns snake_case into camelCase and back."""
    if "_" in name:
        head, *rest = name.split("_")
        return head + "".join(word.capitalize() for word in rest)
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
