"""What llguidance cannot hold of a schema, and where in it."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple

from llguidance import LLMatcher

__all__ = ["find_fault", "first_line"]

_MAX_PROBES = 200
_MAX_JOINED = 16
_MAX_VARIANTS = 256
_MANY = 1 << 16
_SAME_VALUE = ("allOf", "anyOf", "oneOf")
_FORMATS = "date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri"
# What the library says, and how a schema's author says it.
_SAID = (
    (r"regex parse error:;? *(.*)", r"the 'pattern' cannot be held: \1"),
    (r"oneOf constraints are not supported.*", "the schemas of 'oneOf' do not exclude each other; use 'anyOf'"),
    (r"Unknown format: (.*)", rf"the 'format' '\1' is none of {_FORMATS}; use 'pattern'"),
    (r".*'multipleOf' has too many digits.*", "the 'multipleOf' has too many digits"),
    (r"Unable to determine if regex is empty.*", "the pattern and its bounds are too complex together"),
    (r"(.*)while processing json-schema:.*", r"\1"),
    (r"(.*json-schema:///#)/\$defs/whole(.*)", r"\1\2"),
)


class _Size(NamedTuple):
    """How many schemas describe one value at once, and in how many variants."""

    joined: int
    variants: int


def find_fault(schema: Mapping[str, Any]) -> tuple[str, str] | None:
    """The innermost part that a grammar cannot hold, as a JSON pointer, and why; None if all of it can be held.

    Takes milliseconds, or a second for the largest schemas; more probes are made only to name a fault's place.

    Args:
        schema: narrowed; its references all lead into it.
    """
    if (crowded := _crowded_place(schema)) is not None:
        return crowded, f"more than {_MAX_JOINED} schemas, or {_MAX_VARIANTS} combinations of them, describe one value"
    problem = _problem(schema)
    if problem is None:
        return None
    place, path = "", [""]
    num_left = max(_MAX_PROBES // 10, _MAX_PROBES - len(json.dumps(schema)) // 200)
    while True:
        whole = {"whole": _relocated(schema, {f"#{p}" for p in path})}
        for below in _places_below(_at(schema, place), place):
            if below in path or not num_left or not isinstance(_at(schema, below), Mapping):
                continue
            num_left -= 1
            found = _problem({"$ref": f"#/$defs/whole{below}", "$defs": whole})
            if found is not None:
                place, problem = below, found
                path.append(place)
                break
        else:
            return place, problem


def first_line(error: str) -> str:
    """An error without llguidance's state and the whole grammar behind it; a regular expression's has several lines."""
    lines = [line.strip() for line in error.partition("<state>")[0].splitlines()]
    return "; ".join(line for line in lines if line.strip("^| "))[:300].rstrip(".;")


def _problem(schema: Mapping[str, Any]) -> str | None:
    try:
        error = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    except ValueError as problem:  # the library's JSON is narrower than Python's
        error = str(problem)
    said = first_line(error)
    for sign, ours in _SAID:
        said = re.sub(f"^{sign}$", ours, said)
    return said.strip("; ") or None


def _places_below(schema: Any, place: str) -> Iterator[str]:
    """Pointers to the schemas that one consists of, and to the one that it refers to."""
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        if keyword == "$ref":
            yield value[1:]
        elif keyword in ("additionalProperties", "items"):
            yield f"{place}/{keyword}"
        elif keyword in (*_SAME_VALUE, "prefixItems"):
            yield from (f"{place}/{keyword}/{number}" for number in range(len(value)))
        elif keyword in ("patternProperties", "properties"):
            yield from (f"{place}/{keyword}/{_escaped(name)}" for name in value)


def _at(schema: Any, place: str) -> Any:
    for step in place.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        schema = schema[int(key)] if isinstance(schema, list) else schema[key]
    return schema


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _relocated(value: Any, cut: Set[str]) -> Any:
    """The same with all references one level down; what refers to a place of these is no fault of its own."""
    if isinstance(value, list):
        return [_relocated(item, cut) for item in value]
    if not isinstance(value, Mapping):
        return value
    copy = {key: _relocated(item, cut) for key, item in value.items()}
    if isinstance(reference := value.get("$ref"), str):
        copy["$ref"] = f"#/$defs/whole{reference[1:]}"
        if reference in cut:
            del copy["$ref"]
    return copy


def _crowded_place(root: Mapping[str, Any]) -> str | None:
    """Where so many schemas describe one value that joining them, which the library does, would take too long."""
    sizes: dict[str, _Size] = {}
    pending = [("", False)]
    while pending:
        place, is_ready = pending.pop()
        schema = _at(root, place)
        if not isinstance(schema, Mapping) or (place in sizes and not is_ready):
            continue
        if not is_ready:
            sizes[place] = _Size(1, 1)  # for those below that refer to it
            below = [f"{place}/{k}/{_escaped(n)}" for k in ("$defs", "definitions") for n in schema.get(k, ())]
            pending += [(place, True), *((p, False) for p in [*_places_below(schema, place), *below])]
            continue
        parts = _parts(schema, place, sizes)
        size = _Size(sum(s.joined for s in parts), math.prod(s.variants for s in parts))
        if len(parts) > 1 and (size.joined > _MAX_JOINED or size.variants > _MAX_VARIANTS):
            return place
        sizes[place] = _Size(min(size.joined, _MANY), min(size.variants, _MANY))
    return None


def _parts(schema: Mapping[str, Any], place: str, sizes: Mapping[str, _Size]) -> list[_Size]:
    """What describes a value at once: the schema's own keywords, those that it joins, one of those to choose from."""

    def size(below: str) -> _Size:
        return sizes.get(below, _Size(1, 1))

    parts = [size(f"{place}/allOf/{number}") for number in range(len(schema.get("allOf", ())))]
    if "$ref" in schema:
        parts.append(size(schema["$ref"][1:]))
    for keyword in schema.keys() & {"anyOf", "oneOf"}:
        branches = [size(f"{place}/{keyword}/{number}") for number in range(len(schema[keyword]))]
        parts += [_Size(max(b.joined for b in branches), sum(b.variants for b in branches))]
    if schema.keys() - {"$defs", "$ref", "definitions", "type", *_SAME_VALUE} or not parts:
        parts.append(_Size(1, 1))
    return parts
