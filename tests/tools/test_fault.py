from typing import Any

import pytest

from understudy.errors import RequestError
from understudy.tools.fault import find_fault
from understudy.tools.schema import narrow_schema

STRINGS = [{"type": "string", "pattern": f"a{{{n}}}.*b{{{n}}}"} for n in range(1, 30)]
CHOICES = [{"anyOf": [{"properties": {f"p{n}{m}": {}}} for m in range(4)]} for n in range(6)]
DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)}


def properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, "required": [*schemas]}


@pytest.mark.parametrize(
    ("schema", "place", "problem"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 1}, "its root", "minimum (3) is greater than maximum (1)"),
        (
            properties(a={"type": "string", "format": "colour"}),
            "/properties/a",
            "the 'format' 'colour' is none of date,",
        ),
        (properties(a={"items": {"pattern": "(?=a)b"}}), "/properties/a/items", "the 'pattern' cannot be held: (?=a)b"),
        (properties(**{"a/~b": {"pattern": "(a"}}), "/properties/a~1~0b", "unclosed group"),
        ({"anyOf": [{}, {"oneOf": [{"type": "integer"}, {"type": "number"}]}]}, "/anyOf/1", "'oneOf' do not exclude"),
        (properties(a={}, b={}) | {"maxProperties": 1}, "its root", "maxProperties"),
        (properties(a={"$ref": "#/$defs/a"}) | {"$defs": {"a": {"format": "x"}}}, "/$defs/a", "the 'format' 'x'"),
        ({"properties": {"b": {"$ref": "#"}, "a": {"format": "x"}}}, "/properties/a", "the 'format' 'x'"),
        ({"type": "number", "multipleOf": 1e-15}, "its root", "the 'multipleOf' has too many digits"),
        (properties(a={"type": "string", "minLength": 9, "format": "ipv4", "maxLength": 2}), "/properties/a", "Unsat"),
        ({"allOf": STRINGS}, "its root", "more than 16 schemas"),
        ({"allOf": CHOICES}, "its root", "256 combinations"),
        ({"$defs": {**DOUBLING, "d20": {"pattern": "a"}}, "$ref": "#/$defs/d0"}, "/$defs/d15", "more than 16 schemas"),
    ],
)
def test_a_fault_is_named_with_its_place(schema: Any, place: str, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        narrow_schema(schema, param="tools[2].function.parameters")
    message = str(caught.value)
    assert message.startswith(f"tools[2].function.parameters: JSON schema at {place}: ")
    assert problem in message
    assert len(message) < 400
    assert "$defs/whole" not in message


def test_what_can_be_held_has_no_fault() -> None:
    tree = {"type": "object", "properties": {"leaf": {"type": "boolean"}, "below": {"$ref": "#"}}}
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(1500)}
    for schema in (tree, {"$defs": {**chain, "d1500": {"type": "null"}}, "$ref": "#/$defs/d0"}):
        assert find_fault(narrow_schema(schema, param="x")) is None
