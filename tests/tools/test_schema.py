import json
from typing import Any

import pytest

from understudy.errors import RequestError
from understudy.tools.schema import SchemaLimits, narrow_schema

DEEP: dict[str, Any] = {"type": "string"}
for _ in range(SchemaLimits.depth):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"uniqueItems": True}, "'uniqueItems' cannot be held"),
        ({"properties": {"a": {"not": {"type": "string"}}}}, "at /properties/a: the keyword 'not'"),
        ({"if": {}, "then": {}}, "'if'"),
        ({"type": "object", "nullable": True}, "'nullable'"),
        ({"anyOf": [{"type": "integer"}, {"contains": {}}]}, "at /anyOf/1: the keyword 'contains'"),
        ({"type": "string", "x-guidance": {"lenient": True}}, "'x-guidance'"),
        ({"items": [{"type": "integer"}]}, "'items' must be one schema"),
        ({"type": "text"}, "'type' must be one or a list of"),
        ({"type": "number", "exclusiveMinimum": True}, "'exclusiveMinimum' must be a number"),
        ({"pattern": "a" * 513}, "'pattern' must be a regular expression of at most 512"),
        ({"minLength": 10**9}, "'minLength' must be a whole number from 0 to 4096"),
        ({"enum": []}, "'enum' must be a list that is not empty"),
        ({"properties": {"a": 5}}, "at /properties/a: a schema must be an object, got int"),
        ({"$ref": "http://example.com/s"}, "'\\$ref' must be a place in the same schema"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "'#/\\$defs/b' points to no schema"),
        ({"enum": [{"a": 1}], "anyOf": [{"$ref": "#/enum/0"}]}, "'#/enum/0' points to no schema"),
        ({"$ref": "#"}, "no way out"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no way out"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no way out"),
        (
            {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}]}}},
            "no way out",
        ),
        ({"properties": {str(n): {} for n in range(513)}}, "more than 512 properties"),
        ({"description": "x" * 70_000}, "at most 65536 are accepted"),
        (DEEP, "nested deeper than 48 levels"),
        ({"type": "object", "minProperties": 2}, "'minProperties' cannot be held where keys are free"),
        ({"minimum": float("nan")}, "no plain JSON"),
        ({"const": "\ud800"}, "no plain JSON"),
        ({"const": {1, 2}}, "no plain JSON"),
        (False, "allows nothing"),
        ([], "must be an object, got list"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(schema: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        narrow_schema(schema, param="tools[0].function.parameters")
    assert caught.value.param == "tools[0].function.parameters"
    assert len(str(caught.value)) < 500


def test_a_recursion_with_a_way_out_is_kept() -> None:
    tree = {
        "type": "object",
        "properties": {"leaf": {"type": "boolean"}, "below": {"type": "array", "items": {"$ref": "#"}}},
    }
    assert narrow_schema(tree, param="x")["properties"]["below"]["items"] == {"$ref": "#"}
    chain = {"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(200)}, "$ref": "#/$defs/d0"}
    chain["$defs"]["d200"] = {"type": "null"}  # type: ignore[index]
    assert narrow_schema(chain, param="x")["$ref"] == "#/$defs/d0"


def test_references_in_a_ring_take_no_time() -> None:
    ring = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{m}"} for m in range(20)]} for n in range(20)}
    with pytest.raises(RequestError, match="no way out"):
        narrow_schema({"$defs": ring, "$ref": "#/$defs/d0"}, param="x")


def test_the_schema_given_is_not_changed() -> None:
    schema = {"type": "object", "title": "A", "properties": {"a": {"type": "integer"}, "b": True}}
    before = json.dumps(schema)
    narrow_schema(schema, param="x")
    assert json.dumps(schema) == before


def test_numbers_get_bounds() -> None:
    properties = {
        "whole": {"type": "integer"},
        "low": {"type": "integer", "minimum": 1e18},
        "part": {"type": "number", "exclusiveMaximum": 1},
        "fine": {"type": "number", "minimum": 1e-8, "maximum": 3e-8},
        "step": {"type": ["number", "null"], "multipleOf": 0.5},
    }
    narrow = narrow_schema({"properties": properties}, param="x")["properties"]
    assert narrow["whole"] == {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1}
    assert narrow["low"]["maximum"] >= 1e18
    assert narrow["part"] == {"type": "number", "exclusiveMaximum": 1, "minimum": 1 - 2**53, "multipleOf": 1e-6}
    assert narrow["fine"]["multipleOf"] == 1e-9
    assert narrow["step"]["multipleOf"] == 0.5


def test_objects_that_list_their_properties_are_closed() -> None:
    listed = {"type": "object", "properties": {"a": {"type": "null"}}}
    assert narrow_schema(listed, param="x")["additionalProperties"] is False
    assert narrow_schema({**listed, "additionalProperties": {"type": "null"}}, param="x")["additionalProperties"] == {
        "type": "null"
    }
    assert narrow_schema({**listed, "required": ["b"]}, param="x")["additionalProperties"] is not False
    parts = narrow_schema({"allOf": [listed, {"properties": {"b": {"type": "null"}}}]}, param="x")
    assert all(part.get("additionalProperties") is not False for part in parts["allOf"])


def test_annotations_go_and_huge_limits_come_down() -> None:
    schema = {"type": "string", "title": "T", "default": 1, "x-order": 3, "maxLength": 10**9}
    narrow = narrow_schema(schema, param="x")
    assert {k: v for k, v in narrow.items() if k != "$defs"} == {"type": "string", "maxLength": SchemaLimits.count}
