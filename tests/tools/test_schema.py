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
        ({"enum": [[{"a": 1 << 63}]]}, "'enum' must be .* with whole numbers of at most 63 bits"),
        ({"const": -(10**300)}, "'const' must be a value with whole numbers of at most 63 bits"),
        ({"minimum": 10**400}, "'minimum' lies beyond"),
        ({"exclusiveMaximum": -1e19}, "'exclusiveMaximum' lies beyond"),
        ({"multipleOf": 86_400}, "'multipleOf' must be a number above 0 whose digits"),
        ({"multipleOf": 9999.9}, "'multipleOf' must be a number above 0 whose digits"),
        ({"type": "integer", "format": "date"}, "'format' of a number must be one of int32"),
        (
            {"patternProperties": {f"^{n}": {} for n in range(17)}},
            "'patternProperties' must be an object of at most 16",
        ),
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


def test_bounds_that_every_number_keeps_are_left_out() -> None:
    huge = {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 10**400}
    assert narrow_schema({"properties": {"a": huge}}, param="x")["properties"]["a"] == {
        "type": "number",
        "minimum": 1 - 2**53,
        "maximum": 2**53 - 1,
        "multipleOf": 1e-6,
    }


def test_formats_of_numbers_are_bounds() -> None:
    types = {"i": "int32", "u": "uint32", "l": "int64"}
    properties: dict[str, Any] = {k: {"type": "integer", "format": f} for k, f in types.items()}
    properties["small"] = {"type": ["integer", "null"], "format": "int32", "minimum": 3}
    narrow = narrow_schema({"properties": properties}, param="x")["properties"]
    assert narrow["i"] == {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
    assert narrow["u"] == {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    assert narrow["l"] == {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1}
    assert (narrow["small"]["minimum"], narrow["small"]["maximum"]) == (3, 2**31 - 1)


def test_dates_and_times_are_those_that_libraries_read() -> None:
    for kind in ("date", "time", "date-time"):
        assert "allOf" in narrow_schema({"type": "string", "format": kind, "pattern": "1"}, param="x")


def test_unions_that_a_tag_tells_apart_are_held() -> None:
    tagged = [{"type": "object", "properties": {"k": {"const": c}}, "required": ["k"]} for c in "abc"]
    union = {"$defs": {f"t{n}": schema for n, schema in enumerate(tagged)}}
    union["oneOf"] = [{"$ref": f"#/$defs/t{n}"} for n in range(3)]  # type: ignore[assignment]
    assert narrow_schema({**union, "discriminator": {"propertyName": "k"}}, param="x")["anyOf"] == union["oneOf"]
    tagged[2]["properties"] = {"k": {"enum": ["d", "a"]}}
    with pytest.raises(RequestError, match="'oneOf' do not exclude each other"):
        narrow_schema(union, param="x")


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
