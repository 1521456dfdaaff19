"""JSON schemas from outside: checked, and narrowed to what a grammar can hold and a weak model can finish.

The result allows only what the schema allows, never more: numbers get bounded digits, objects that list their
properties are closed, and what a grammar cannot hold is refused by name instead of being ignored.
"""

import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NoReturn

from understudy.errors import RequestError
from understudy.tools.fault import find_fault

__all__ = ["SchemaLimits", "narrow_schema"]


class SchemaLimits:
    """What is accepted of a schema; more is refused before any library sees it."""

    num_bytes = 1 << 16
    depth = 48  # of the JSON text; an object in an object adds two
    num_properties = 512
    pattern_length = 512
    count = 4096  # of characters or items that may be asked for
    whole_number = (1 << 53) - 1  # beyond, readers of JSON disagree
    decimals = 6  # behind the point, where no bound is finer
    most_decimals = 9
    number = 10**18  # no bound lies beyond
    step = 10_000
    num_patterns = 16  # of one object's names


_ANY = "any-value"
_MAX_ROUNDS = 64
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_ANNOTATIONS = frozenset(
    [
        "$comment",
        "$schema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    ]
)
_OF_TYPE = {
    "string": {"format", "maxLength", "minLength", "pattern"},
    "number": {"exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"},
    "array": {"items", "maxItems", "minItems", "prefixItems"},
    "object": {"additionalProperties", "maxProperties", "minProperties", "patternProperties", "properties", "required"},
}
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "patternProperties", "properties")
_SINGLES = ("additionalProperties", "items")
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
# What generators of schemas write beside numbers; where it is None, no bound is finer than those that all get.
_NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, SchemaLimits.whole_number),
    **dict.fromkeys(("int64", "float", "double", "decimal")),
}
_YEAR = "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_CLOCK = "[0-9]{2}:[0-9]{2}:[0-5][0-9]([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
# No year 0, leap second or endless fraction: games' own libraries cannot read them.
_SHAPES = {"date": f"^{_YEAR}-", "time": f"^{_CLOCK}$", "date-time": f"^{_YEAR}-.{{5}}T{_CLOCK}$"}
_CHOICES = ("$ref", "allOf", "anyOf", "const", "enum", "oneOf")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_step(value: Any) -> bool:
    """Whether multiples of it can be told digit by digit; the remainders are states of an automaton."""
    if not _is_number(value) or not 0 < value <= SchemaLimits.step:
        return False
    digits = "".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits))
    return digits == "1" or int(digits) <= SchemaLimits.step


def _is_exact(value: Any) -> bool:
    """Whether every reader of JSON understands the value's numbers alike."""
    if isinstance(value, dict | list):
        return all(map(_is_exact, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or abs(value) < 1 << 63


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_types(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list) and bool(names) and all(n in _TYPES for n in names if isinstance(n, str))


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_are_types, f"one or a list of {', '.join(_TYPES)}"),
    "enum": (
        lambda v: isinstance(v, list) and bool(v) and _is_exact(v),
        "a list that is not empty, with whole numbers of at most 63 bits",
    ),
    "const": (_is_exact, "a value with whole numbers of at most 63 bits"),
    "$ref": (lambda v: isinstance(v, str) and v.startswith("#"), "a place in the same schema, as #/$defs/name"),
    "format": (lambda v: isinstance(v, str), "a string"),
    "pattern": (
        lambda v: isinstance(v, str) and len(v) <= SchemaLimits.pattern_length,
        f"a regular expression of at most {SchemaLimits.pattern_length} characters",
    ),
    "multipleOf": (_is_step, f"a number above 0 whose digits, without the point, are at most {SchemaLimits.step}"),
    "required": (lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v), "a list of names"),
    **dict.fromkeys(_BOUNDS, (_is_number, "a number")),
    **{
        k: (lambda v: _is_count(v) and v <= SchemaLimits.count, f"a whole number from 0 to {SchemaLimits.count}")
        for k in ("minLength", "minItems", "minProperties")
    },
    **dict.fromkeys(("maxLength", "maxItems", "maxProperties"), (_is_count, "a whole number from 0")),
    **{k: (lambda v: isinstance(v, list) and bool(v), "a list that is not empty") for k in _LISTS},
    **{k: (lambda v: isinstance(v, dict), "an object") for k in _MAPS},
    "patternProperties": (
        lambda v: isinstance(v, dict) and len(v) <= SchemaLimits.num_patterns,
        f"an object of at most {SchemaLimits.num_patterns} patterns",
    ),
    **{k: (lambda v: isinstance(v, dict | bool), "one schema") for k in _SINGLES},
}


def narrow_schema(schema: Any, *, param: str) -> dict[str, Any]:
    """Check a JSON schema and make the narrower one that a grammar is built from.

    Args:
        schema: of any origin; left unchanged.
        param: the request's parameter that errors name.

    Raises:
        RequestError: it is too large, malformed, cannot be held, or has a part that no finite text satisfies; the
            message names the keyword and its place.
    """
    return _Narrowing(schema, param).result


class _Narrowing:
    def __init__(self, schema: Any, param: str) -> None:
        self._param = param
        self._num_properties = 0
        text = self._checked_text(schema)
        if not isinstance(schema, dict | bool):
            self._refuse("", f"a schema must be an object, got {type(schema).__name__}")
        if schema is False:
            self._refuse("", "the schema `false` allows nothing")
        copy: dict[str, Any] = {} if schema is True else json.loads(text)
        copy.pop("$id", None)
        # Parts of one value that are described in several places must not close it against each other.
        self._may_close = not any(
            "allOf" in s or ("properties" in s and s.keys() & {"$ref", "anyOf", "oneOf"}) for s in _schemas(copy)
        )
        self.result: dict[str, Any] = self._narrow(copy, "")
        definitions = self.result.setdefault("$defs", {})
        if _ANY in definitions:
            self._refuse(f"/$defs/{_ANY}", "this name is taken; rename the definition")
        definitions[_ANY] = self._fill({}, "")
        self._check_ends()
        for choice in _schemas(self.result):
            if "oneOf" in choice and "anyOf" not in choice and self._exclude_each_other(choice["oneOf"]):
                choice["anyOf"] = choice.pop("oneOf")
        if (fault := find_fault(self.result)) is not None:
            self._refuse(*fault)

    def _refuse(self, place: str, problem: str) -> NoReturn:
        raise RequestError(f"{self._param}: JSON schema at {place or 'its root'}: {problem}.", param=self._param)

    def _checked_text(self, schema: Any) -> str:
        level, depth = [schema], 0
        while level:
            depth += 1
            if depth > SchemaLimits.depth:
                self._refuse("", f"nested deeper than {SchemaLimits.depth} levels")
            values = [v for v in level if isinstance(v, dict | list)]
            level = [c for v in values for c in (v.values() if isinstance(v, dict) else v)]
            if len(level) > SchemaLimits.num_bytes:
                break
        try:
            text = json.dumps(schema, allow_nan=False, ensure_ascii=False)
            num_bytes = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"{self._param}: the schema is no plain JSON: {error}.", param=self._param) from error
        if num_bytes > SchemaLimits.num_bytes:
            self._refuse("", f"it takes {num_bytes} bytes; at most {SchemaLimits.num_bytes} are accepted")
        return text

    def _narrow(self, schema: dict[str, Any], place: str, *, is_part: bool = False) -> dict[str, Any]:
        """One schema and all below it.

        Args:
            schema: JSON of our own; changed.
            place: JSON pointer to it, for messages.
            is_part: other keywords, elsewhere, describe the same value.
        """
        kept: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in _ANNOTATIONS or (keyword.startswith("x-") and keyword != "x-guidance"):
                continue
            if keyword == "uniqueItems" and value is False:
                continue
            if keyword not in _VALUES:
                self._refuse(place, f"the keyword {keyword!r} cannot be held by a grammar; leave it out")
            is_right, expected = _VALUES[keyword]
            if not is_right(value):
                self._refuse(place, f"{keyword!r} must be {expected}, got {str(value)[:80]!r}")
            kept[keyword] = value
        self._check_numbers(kept, place)
        if (shape := _SHAPES.get(kept.get("format", ""))) is not None:
            kept["allOf"] = [*kept.get("allOf", []), {"pattern": shape}]
        is_shared = is_part or bool(kept.keys() - {"$defs", "definitions", "type", "anyOf", "oneOf"})
        for keyword in kept.keys() & {*_LISTS, *_MAPS, *_SINGLES}:
            is_same_value = keyword == "allOf" or (keyword in ("anyOf", "oneOf") and is_shared)
            kept[keyword] = self._narrow_below(kept[keyword], f"{place}/{keyword}", is_part=is_same_value)
        if is_part and "type" in kept:
            _bound_numbers(kept)
        return kept if is_part else self._fill(kept, place)

    def _check_numbers(self, schema: dict[str, Any], place: str) -> None:
        """Bounds that any number keeps go; a format of numbers becomes bounds."""
        for keyword in schema.keys() & {*_BOUNDS}:
            value = schema[keyword]
            if abs(value) > SchemaLimits.number:
                if (value > 0) is keyword.endswith("inimum"):
                    self._refuse(place, f"{keyword!r} lies beyond {SchemaLimits.number}, where numbers are not exact")
                del schema[keyword]
        types = {*_listed(schema.get("type", []))}
        if "format" in schema and types & {"integer", "number"} and "string" not in types:
            name = schema.pop("format")
            if name not in _NUMBER_FORMATS:
                self._refuse(
                    place, f"the 'format' of a number must be one of {', '.join(_NUMBER_FORMATS)}, got {name!r}"
                )
            if bounds := _NUMBER_FORMATS[name]:
                schema["minimum"] = max(bounds[0], schema.get("minimum", bounds[0]))
                schema["maximum"] = min(bounds[1], schema.get("maximum", bounds[1]))

    def _narrow_below(self, value: Any, place: str, *, is_part: bool) -> Any:
        if isinstance(value, bool):
            return {"$ref": f"#/$defs/{_ANY}"} if value else False
        if place.rpartition("/")[2] in _SINGLES:
            return self._narrow(value, place)
        items = list(enumerate(value)) if isinstance(value, list) else list(value.items())
        if place.endswith("/properties"):
            self._num_properties += len(items)
            if self._num_properties > SchemaLimits.num_properties:
                self._refuse(place, f"more than {SchemaLimits.num_properties} properties")
        below = {}
        for key, item in items:
            if not isinstance(item, dict | bool):
                self._refuse(f"{place}/{key}", f"a schema must be an object, got {type(item).__name__}")
            if isinstance(item, bool):
                below[key] = {"$ref": f"#/$defs/{_ANY}"} if item else False
            else:
                below[key] = self._narrow(item, f"{place}/{key}", is_part=is_part)
        return list(below.values()) if isinstance(value, list) else below

    def _fill(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        """Add the bounds that a schema leaves open."""
        if "type" not in schema and not schema.keys() & {*_CHOICES}:
            named = [kind for kind, keywords in _OF_TYPE.items() if schema.keys() & keywords]
            schema["type"] = named[0] if len(named) == 1 else ["null", "boolean", "number", "string", "array", "object"]
        found = schema.get("type", [])
        types = {found} if isinstance(found, str) else set(found)
        for keyword in schema.keys() & {"maxLength", "maxItems"}:
            schema[keyword] = min(schema[keyword], SchemaLimits.count)
        if "type" in schema:
            _bound_numbers(schema)
        rest = {"$ref": f"#/$defs/{_ANY}"}
        if "array" in types and "items" not in schema and not schema.keys() & {*_CHOICES}:
            is_whole = "prefixItems" in schema and schema.get("minItems", 0) <= len(schema["prefixItems"])
            schema["items"] = False if is_whole else rest
        if "object" in types and "additionalProperties" not in schema:
            listed = schema.get("properties", {}).keys()
            is_listed = self._may_close and bool(schema.keys() & {"properties", "patternProperties"})
            if is_listed and listed >= set(schema.get("required", [])):
                schema["additionalProperties"] = False
            elif not schema.keys() & {*_CHOICES}:
                schema["additionalProperties"] = rest
        is_open = schema.get("additionalProperties") is not False or "patternProperties" in schema
        if is_open and schema.get("minProperties", 0) > 1 + len(set(schema.get("required", []))):
            # A grammar cannot see that a free key comes twice, and twice the same key is one property.
            self._refuse(place, "'minProperties' cannot be held where keys are free; require them by name")
        return schema

    def _check_ends(self) -> None:
        """Refuse a part that no finite text satisfies: a recursion without a way out, a reference to itself."""
        open_ones = list(_schemas(self.result))
        known = {id(s) for s in open_ones}
        targets = {s["$ref"]: self._resolve(s["$ref"]) for s in open_ones if "$ref" in s}
        for reference, target in targets.items():
            if not (isinstance(target, bool) or id(target) in known):
                self._refuse("", f"the '$ref' {reference[:80]!r} points to no schema in it")
        finite: set[int] = set()

        def ends(part: Any) -> bool:
            return part is True or id(part) in finite

        for _ in range(_MAX_ROUNDS):
            still_open = []
            for schema in reversed(open_ones):  # there and back: a chain of references takes two rounds
                if self._can_end(schema, targets, ends):
                    finite.add(id(schema))
                else:
                    still_open.append(schema)
            is_settled = len(still_open) == len(open_ones)
            open_ones = still_open
            if is_settled:
                break
        if open_ones:
            sample = json.dumps(open_ones[0])[:120]
            self._refuse("", f"no finite value satisfies {sample}: its recursion has no way out, or too many steps")

    def _can_end(self, schema: dict[str, Any], targets: dict[str, Any], ends: Callable[[Any], bool]) -> bool:
        return (
            ("$ref" not in schema or ends(targets[schema["$ref"]]))
            and all(ends(s) for s in schema.get("allOf", []))
            and all(any(ends(s) for s in schema[k]) for k in ("anyOf", "oneOf") if k in schema)
            and any(self._type_ends(schema, t, ends) for t in _listed(schema.get("type", "null")))
        )

    @staticmethod
    def _type_ends(schema: dict[str, Any], kind: str, ends: Callable[[Any], bool]) -> bool:
        if kind == "object":
            properties = schema.get("properties", {})
            return all(ends(properties[name]) for name in schema.get("required", []) if name in properties)
        if kind == "array":
            prefix, at_least = schema.get("prefixItems", []), schema.get("minItems", 0)
            return all(ends(s) for s in prefix[:at_least]) and (
                at_least <= len(prefix) or ends(schema.get("items", True))
            )
        return True

    def _exclude_each_other(self, branches: list[Any]) -> bool:
        """Whether a property that all of them require tells by its value which one it is."""
        seen: list[dict[str, Any]] = []
        for branch in branches:
            found = branch
            for _ in range(_MAX_ROUNDS):
                if not isinstance(found, dict) or found.keys() != {"$ref"}:
                    break
                found = self._resolve(found["$ref"])
            if not isinstance(found, dict) or found.get("type") != "object":
                return False
            seen.append(found)
        for name in seen[0].get("required", []):
            tags = [
                _tags(s["properties"][name])
                for s in seen
                if name in s.get("required", []) and name in s.get("properties", {})
            ]
            if len(tags) == len(seen) and all(tags) and len(frozenset().union(*tags)) == sum(map(len, tags)):
                return True
        return False

    def _resolve(self, reference: str) -> Any:
        value: Any = self.result
        for step in reference[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict):
                value = value.get(key)
            else:
                value = None
        return value if reference == "#" or reference.startswith("#/") else None


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _schemas(schema: Any) -> Iterator[dict[str, Any]]:
    """A schema and all below it, as far as they are objects."""
    if not isinstance(schema, dict):
        return
    yield schema
    for keyword, value in schema.items():
        if keyword in _SINGLES:
            yield from _schemas(value)
        elif keyword in _LISTS and isinstance(value, list):
            for item in value:
                yield from _schemas(item)
        elif keyword in _MAPS and isinstance(value, dict):
            for item in value.values():
                yield from _schemas(item)


def _tags(schema: Any) -> frozenset[str]:
    """The values that a schema lists, as JSON; none if it lists none."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else []) if isinstance(schema, dict) else []
    return frozenset(json.dumps(value) for value in values if isinstance(value, str))


def _bound_numbers(schema: dict[str, Any]) -> None:
    """Bound the digits before the point by the value's range, those behind it by a step."""
    types = _listed(schema["type"])
    if not {"integer", "number"} & set(types) or schema.keys() & {"const", "enum"}:
        return
    limit = SchemaLimits.whole_number
    low = [schema[k] for k in ("minimum", "exclusiveMinimum") if k in schema]
    high = [schema[k] for k in ("maximum", "exclusiveMaximum") if k in schema]
    if not low:
        schema["minimum"] = min([-limit, *(math.floor(h) - limit for h in high)])
    if not high:
        schema["maximum"] = max([limit, *(math.ceil(v) + limit for v in low)])
    if "number" in types and "multipleOf" not in schema:
        exponents = [Decimal(repr(v)).as_tuple().exponent for v in (*low, *high)]
        finest = max([0, *(-e for e in exponents if isinstance(e, int))])
        schema["multipleOf"] = float(f"1e-{min(SchemaLimits.most_decimals, max(SchemaLimits.decimals, finest + 1))}")
