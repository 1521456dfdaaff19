"""What requests about characters may hold."""

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from understudy.server.problem import Problem
from understudy.server.schema import Record, Text, Tool, Whole, field_problem

__all__ = ["CallResult", "CreateNpc", "LoadNpc", "SayToNpc", "parse_npc_request"]

MAX_LINE_CHARS = 32_000
_MAX_RESULT_CHARS = 32_000
_MAX_TOOLS = 32
_Body = TypeVar("_Body", bound="_NpcRecord")
_Tools = Annotated[list[Tool], Field(max_length=_MAX_TOOLS)]


class _NpcRecord(Record):
    """A field that nobody knows is refused: no client of another API sends these requests."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.model_extra or {}:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"has the unknown field {name[:40]!r}; there are {known}")
        return self


class CreateNpc(_NpcRecord):
    """The body of `POST /v1/npcs`: who shall speak, and with whom.

    Attributes:
        character: id or name of one of `/v1/characters`.
        card: or a character card, as JSON.
        card_file: or a card's file in base64: PNG, APNG, .charx or JSON.
        player: what the character calls the player.
        world: whose lore it knows; default: its own world's, and none for a card from outside.
        tools: functions of the game, as OpenAI's schemas; the client runs them.
    """

    character: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    card: dict[str, Any] | None = None
    card_file: Annotated[str, Field(min_length=1)] | None = None
    player: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")] = (
        "traveller"
    )
    world: Annotated[str, Field(max_length=200)] | None = None
    tools: _Tools | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if [self.character, self.card, self.card_file].count(None) != 2:
            raise ValueError('must have one of "character", "card" and "card_file"')
        return self


class SayToNpc(_NpcRecord):
    """The body of `POST /v1/npcs/{id}/say` and `.../why`; ranges of the sampling fields are the engine's to check."""

    line: Annotated[str, Field(min_length=1, max_length=MAX_LINE_CHARS)]
    stream: bool = False
    max_tokens: Annotated[Whole, Field(ge=1)] = 120
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    seed: Whole | None = None


class LoadNpc(_NpcRecord):
    """The body of `POST /v1/npcs/load`: what `.../save` gave, and the functions, which are not in it."""

    session: dict[str, Any]
    tools: _Tools | None = None


def _bounded_result(text: str | None) -> str | None:
    if text is not None and len(text) > _MAX_RESULT_CHARS:  # `Field(max_length=...)` fails on None
        raise ValueError(f"must have at most {_MAX_RESULT_CHARS} characters, got {len(text)}")
    return text


class CallResult(_NpcRecord):
    """The body of `POST /v1/npcs/{id}/calls/{call}`: what the game's function gave; null for nothing."""

    content: Annotated[Text, AfterValidator(_bounded_result)]


def parse_npc_request(kind: type[_Body], value: Mapping[str, Any]) -> _Body:
    """Check a body.

    Raises:
        Problem: the first fault; its `param` names the field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        if fault["loc"]:
            raise field_problem(fault) from error
        raise Problem(400, f"The body {fault['ctx']['error']}.", code="invalid_value") from error
