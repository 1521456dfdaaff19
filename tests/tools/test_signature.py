import dataclasses
import enum
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pytest
from pydantic import BaseModel, Field

from understudy.errors import ToolError
from understudy.tools.functions import tool
from understudy.tools.signature import read_docstring


class Room(enum.Enum):
    COMMON = "common"
    RIVER = "river"


@dataclasses.dataclass
class Plate:
    number: int


@dataclasses.dataclass
class Dish:
    """What is on a plate."""

    name: str
    portions: int = 1


class Guest(BaseModel):
    name: str = Field(description="Full name")
    title: str | None = None
    likes: list[Dish] = []


class Crate(BaseModel):
    label: str
    inside: list["Crate"] = []


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    schema = tool(function).schema["function"]["parameters"]
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def test_a_schema_as_a_person_would_write_it() -> None:
    def rent_room(room: Literal["common", "single"], nights: int = 1, breakfast: bool = False) -> str:
        """Rent the player a bed
        at the Dry Boot.

        Args:
            room: Which room.
            nights (int): How many nights,
                counted from this one.

        Returns:
            What the book says.
        """
        return ""

    assert tool(rent_room).schema == {
        "type": "function",
        "function": {
            "name": "rent_room",
            "description": "Rent the player a bed at the Dry Boot.",
            "parameters": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "enum": ["common", "single"], "description": "Which room."},
                    "nights": {
                        "type": "integer",
                        "default": 1,
                        "description": "How many nights, counted from this one.",
                    },
                    "breakfast": {"type": "boolean", "default": False},
                },
                "required": ["room"],
                "additionalProperties": False,
            },
        },
    }


def test_types() -> None:
    def serve(
        room: Room,
        dishes: list[Dish],
        prices: dict[str, float],
        note: Optional[str] = None,  # noqa: UP045
        tip: Annotated[int, Field(ge=0, le=9, description="In pennies")] = 0,
        table: int | str = 1,
    ) -> None: ...

    dish = {
        "type": "object",
        "description": "What is on a plate.",
        "properties": {"name": {"type": "string"}, "portions": {"type": "integer", "default": 1}},
        "required": ["name"],
        "additionalProperties": False,
    }
    assert parameters(serve)["properties"] == {
        "room": {"type": "string", "enum": ["common", "river"]},
        "dishes": {"type": "array", "items": dish},
        "prices": {"type": "object", "additionalProperties": {"type": "number"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "tip": {"type": "integer", "minimum": 0, "maximum": 9, "description": "In pennies", "default": 0},
        "table": {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": 1},
    }


def test_a_property_called_title_stays() -> None:
    def greet(guest: Guest, title: str, default: int, schema: str, _id: int) -> None: ...

    found = parameters(greet)
    assert list(found["properties"]) == ["guest", "title", "default", "schema", "_id"]
    assert list(found["properties"]["guest"]["properties"]) == ["name", "title", "likes"]
    assert "$ref" not in str(found)
    assert "'title': 'Guest'" not in str(found)


def test_a_type_that_holds_itself_is_a_reference() -> None:
    def stow(crate: Crate) -> None: ...

    found = parameters(stow)
    assert found["properties"]["crate"] == {"$ref": "#/$defs/Crate"}
    assert list(found["$defs"]) == ["Crate"]
    inner = {"crate": {"label": "a", "inside": [{"label": "b"}]}}
    jsonschema.validate(inner, found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"crate": {"label": "a", "inside": [{}]}}, found)
    assert tool(stow).read('{"crate": {"label": "a", "inside": [{"label": "b"}]}}')["crate"].inside[0].label == "b"


def test_a_record_without_words_has_no_description() -> None:
    def wash(plate: Plate) -> None: ...

    assert "description" not in parameters(wash)["properties"]["plate"]


def test_no_parameters() -> None:
    def ring() -> None: ...

    assert parameters(ring) == {"type": "object", "properties": {}, "additionalProperties": False}
    assert "description" not in tool(ring).schema["function"]


def test_what_annotations_describe_comes_before_the_docstring() -> None:
    def pay(sum_: Annotated[int, Field(description="In herons")], who: Annotated[str, Field(max_length=9)]) -> None:
        """Pay.

        Args:
            sum_: In pennies.
            who: The payer.
        """

    found = parameters(pay)["properties"]
    assert found["sum_"]["description"] == "In herons"
    assert found["who"] == {"type": "string", "maxLength": 9, "description": "The payer."}


def positional(a: int, /) -> None: ...
def several(*rest: int) -> None: ...
def keywords(**rest: int) -> None: ...
def untyped(a, b: int) -> None: ...  # type: ignore[no-untyped-def]
def callback(a: Callable[[], int]) -> None: ...
def thing(a: "Thing") -> None: ...
def unreadable(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def gives_thing() -> "Thing": ...  # type: ignore[empty-body]


def misnoted(a: int) -> None:
    """Do.

    Args:
        b: Not there.
    """


class Thing:
    pass


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (positional, "'a' by position only"),
        (several, r"takes '\*rest: int'"),
        (keywords, r"takes '\*\*rest: int'"),
        (untyped, "does not say the type of 'a'"),
        (callback, "callback has no JSON schema"),
        (unreadable, "The signature of unreadable cannot be read"),
        (thing, "thing cannot be read from JSON"),
        (gives_thing, "gives_thing returns .*Thing, which cannot be told to the model"),
        (misnoted, "describes 'b', which is no parameter"),
        (lambda: "", "name must be 1 to 64 letters"),
    ],
)
def test_functions_that_cannot_be_described(function: Callable[..., Any], problem: str) -> None:
    with pytest.raises(ToolError, match=problem):
        tool(function)


def test_docstrings() -> None:
    assert read_docstring("") == ("", {})
    text = """Sell a thing.

    It is gone then.

    Args:
        item: What is sold: one thing,
          whole. Note: not
            half.

        *price (float, optional): In herons.
    Raises:
        KeyError: it is none.
    Example:
        sell: 3
    """
    assert read_docstring(text) == (
        "Sell a thing. It is gone then.",
        {"item": "What is sold: one thing, whole. Note: not half.", "price": "In herons."},
    )
