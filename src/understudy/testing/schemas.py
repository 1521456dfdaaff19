"""A maker of random JSON schemas, of every keyword that constrained output holds."""

import random
from collections.abc import Callable
from typing import Any

__all__ = ["FORMATS", "SchemaMaker"]

FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_NAMES = ("name", "room", "n", "with space", "é", 'quo"te', "is_open", "a/b~c", "<toolcall>")
_VALUES: tuple[Any, ...] = (
    "ale",
    "stew",
    'a "q"',
    "x/\\y",
    "żółw",
    "</toolcall>",
    "",
    3,
    -2.5,
    0,
    None,
    True,
    [1, "a"],
    {"k": 1},
    [],
)


class SchemaMaker:
    """Random schemas; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        """Start with a seed."""
        self.random = random.Random(seed)
        self.definitions: dict[str, Any] = {}

    def schema(self, depth: int = 3) -> dict[str, Any]:
        """A schema of so many levels; some have definitions that refer to each other."""
        root = self._value(depth)
        return {**root, "$defs": self.definitions} if self.definitions else root

    def arguments(self, depth: int = 2) -> dict[str, Any]:
        """The schema of a function's arguments."""
        root = self._object(depth)
        return {**root, "$defs": self.definitions} if self.definitions else root

    def _value(self, depth: int) -> dict[str, Any]:
        simple: list[Callable[[], dict[str, Any]]] = [
            self._string,
            self._whole,
            self._number,
            self._one_of,
            self._plain,
        ]
        nested = [self._object, self._array, self._either, self._reference, self._combined]
        if depth == 0 or self.random.random() < 0.4:
            return self.random.choice(simple)()
        return self.random.choice(nested)(depth - 1)

    def _plain(self) -> dict[str, Any]:
        return self.random.choice(
            [
                {"type": "boolean"},
                {"type": "null"},
                {"type": ["boolean", "null"]},
                {"const": self.random.choice(_VALUES)},
                {"type": "string", "enum": ["left", "right"], "title": "Way", "default": "left"},
            ]
        )

    def _string(self) -> dict[str, Any]:
        return {
            "type": self.random.choice(["string", "string", ["string", "null"]]),
            **self.random.choice(
                [
                    {"maxLength": 12},
                    {"minLength": 2, "maxLength": 9},
                    {"pattern": "^[a-z]{2,5}( [a-z]{1,4})?$"},
                    {"pattern": "^(inn|gate)-[0-9]{1,3}$"},
                    {"pattern": "[0-9]x", "maxLength": 20},
                    {"pattern": r"^\w+$", "minLength": 3, "maxLength": 6},
                    {"pattern": r"^[^\x00-\x1f\"<]{0,4}é$"},
                    {"format": self.random.choice(FORMATS)},
                ]
            ),
        }

    def _whole(self) -> dict[str, Any]:
        low = self.random.randint(-2000, 2000)
        return {
            "type": "integer",
            **self.random.choice(
                [
                    {},
                    {"minimum": low},
                    {"maximum": low},
                    {"minimum": low, "exclusiveMaximum": low + 50},
                    {"exclusiveMinimum": low - 0.5, "maximum": low + 9},
                    {"multipleOf": self.random.randint(2, 30)},
                    {"multipleOf": 7, "minimum": low, "maximum": low + 700},
                    {"format": self.random.choice(["int32", "int64", "uint32"])},
                ]
            ),
        }

    def _number(self) -> dict[str, Any]:
        low = self.random.randint(-50, 50) / 4
        return {
            "type": self.random.choice(["number", ["number", "null"]]),
            **self.random.choice(
                [
                    {},
                    {"minimum": low},
                    {"exclusiveMinimum": low, "maximum": low + 3.5},
                    {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
                    {"multipleOf": 0.5},
                    {"multipleOf": 0.01, "minimum": low, "maximum": low + 9},
                ]
            ),
        }

    def _one_of(self) -> dict[str, Any]:
        return {"enum": self.random.sample(_VALUES, self.random.randint(1, 5))}

    def _object(self, depth: int) -> dict[str, Any]:
        names = self.random.sample(_NAMES, self.random.randint(0, 4))
        schema: dict[str, Any] = {"type": "object", "properties": {n: self._value(depth) for n in names}}
        if names:
            schema["required"] = self.random.sample(names, self.random.randint(0, len(names)))
        if self.random.random() < 0.2:
            schema["additionalProperties"] = self.random.choice([False, {"type": "boolean"}])
        return schema

    def _array(self, depth: int) -> dict[str, Any]:
        low = self.random.randint(0, 2)
        bounds = {"minItems": low, "maxItems": low + self.random.randint(0, 2)}
        if self.random.random() < 0.2:
            items = self.random.choice([False, {"type": "null"}])
            return {"type": "array", "prefixItems": [self._value(depth), self._value(0)], "items": items, **bounds}
        return {"type": "array", "items": self._value(depth), **bounds}

    def _either(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._value(depth) for _ in range(self.random.randint(1, 3))]}

    def _combined(self, depth: int) -> dict[str, Any]:
        first = {"type": "object", "properties": {"a": self._value(depth)}, "required": ["a"]}
        kinds: list[dict[str, Any]] = [
            {"type": "object", "properties": {"k": {"const": c}, "v": self._value(0)}, "required": ["k"]} for c in "xyz"
        ]
        properties = {"n": {"type": "integer"}, "m": {"type": "string", "maxLength": 3}}
        return self.random.choice(
            [
                {"allOf": [first, {"properties": {"b": self._value(0)}}]},
                {"allOf": [{"type": "string", "pattern": "^[a-f]{1,9}$"}, {"minLength": 2}, {"pattern": "c|de"}]},
                {"oneOf": kinds},
                {"oneOf": [self._named(kind) for kind in kinds], "discriminator": {"propertyName": "k"}},
                {"type": "object", "properties": properties, "anyOf": [{"required": ["n"]}, {"required": ["m"]}]},
                {"type": "object", "patternProperties": {"^x[a-c]{1,3}$": self._value(depth)}, "maxProperties": 3},
                {"type": "object", "additionalProperties": self._value(depth), "minProperties": 1, "maxProperties": 2},
            ]
        )

    def _reference(self, depth: int) -> dict[str, Any]:
        name = f"d{len(self.definitions)}"
        self.definitions[name] = {}  # its place is taken before what it contains takes others
        again = {"$ref": f"#/$defs/{name}"}
        self.definitions[name] = self.random.choice(
            [
                self._value(depth),
                {"anyOf": [self._value(0), {"type": "array", "items": again, "maxItems": 2}]},
                {"type": "object", "properties": {"leaf": self._value(0), "below": again}, "required": ["leaf"]},
            ]
        )
        return again

    def _named(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = f"d{len(self.definitions)}"
        self.definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}
