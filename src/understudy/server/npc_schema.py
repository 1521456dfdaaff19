"""What requests about characters may hold."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from understudy.npc.state import KV_SHARE
from understudy.server.problem import Problem
from understudy.server.schema import Record, SamplingFields, Text, Tool, Whole, field_problem

__all__ = [
    "CallResult",
    "CreateNpc",
    "EditFact",
    "LoadNpc",
    "NoteFact",
    "SaveNpc",
    "SayToNpc",
    "Speech",
    "parse_npc_request",
]

MAX_LINE_CHARS = 32_000
_MAX_RESULT_CHARS = 32_000
_MAX_TOOLS = 32
_MAX_BOOKS = 8
_MAX_LINES = 16
_Body = TypeVar("_Body", bound="_NpcRecord")
_Tools = Annotated[list[Tool], Field(max_length=_MAX_TOOLS)]
_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")]
_Named = Annotated[str, Field(min_length=1, max_length=200)]
_Fact = Annotated[str, Field(min_length=1, max_length=1000)]


class _NpcRecord(Record):
    """A field that nobody knows is refused: no client of another API sends these requests."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.model_extra or {}:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"has the unknown field {name[:40]!r}; there are {known}")
        return self


class Speech(SamplingFields, _NpcRecord):
    """How a character answers.

    Attributes:
        max_tokens: longest answer.
        temperature: as of chat completions, like the other fields of sampling.
        dry_multiplier: strength of the guard against repetition; 0 switches it off.
        dry_base: how fast it grows with a repetition's length.
        dry_allowed_length: repetitions of so many tokens are free.
        dry_sequence_breakers: texts that end a repetition.
        deadline_s: a line ends after so many seconds with what it has.
        fallback: what the character says, one of these in turn, where the deadline left it without a word.
        max_rounds: so many times it may call functions before it must speak.
        max_calls: so many calls at once.
    """

    deadline_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    fallback: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1, max_length=_MAX_LINES)
        ]
        | None
    ) = None
    max_rounds: Annotated[Whole, Field(ge=1, le=16)] | None = None
    max_calls: Annotated[Whole, Field(ge=1, le=16)] | None = None


class _Surroundings(_NpcRecord):
    """What a character has beside its card; none of it is in a saved session.

    Attributes:
        lorebooks: the game's, as documents; the card's own comes before them.
        lore: name of a lore database of the server's.
        memory: it keeps what it learns of the player beyond this conversation, in the server's memory.
        tools: functions of the game, as OpenAI's schemas; the client runs them.
        options: how it answers, where a line says nothing else.
    """

    lorebooks: Annotated[list[dict[str, Any]], Field(max_length=_MAX_BOOKS)] | None = None
    lore: _Named | None = None
    memory: bool = False
    tools: _Tools | None = None
    options: Speech | None = None


class CreateNpc(_Surroundings):
    """The body of `POST /v1/npcs`: who shall speak, and with whom.

    Attributes:
        character: id or name of one of `/v1/characters`.
        card: or a character card, as JSON.
        card_file: or a card's file in base64: PNG, APNG, .charx or JSON.
        player: what the character calls the player.
        world: whose lore it knows; default: its own world's, and none for a card from outside.
        seed: of its chance; default: a random one.
    """

    character: _Named | None = None
    card: dict[str, Any] | None = None
    card_file: Annotated[str, Field(min_length=1)] | None = None
    player: _Name = "traveller"
    world: Annotated[str, Field(max_length=200)] | None = None
    seed: Whole | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if [self.character, self.card, self.card_file].count(None) != 2:
            raise ValueError('must have one of "character", "card" and "card_file"')
        return self


class SayToNpc(Speech):
    """The body of `POST /v1/npcs/{id}/say` and `.../why`.

    Attributes:
        line: what the player says.
        stream: answer with events.
        remember: false leaves no trace: neither the line nor the answer is known afterwards.
        seed: of this answer; default: the next of the session's.
    """

    line: Annotated[str, Field(min_length=1, max_length=MAX_LINE_CHARS)]
    stream: bool = False
    remember: bool = True
    seed: Whole | None = None


class SaveNpc(_NpcRecord):
    """The body of `POST /v1/npcs/{id}/save`; without one, the session's document is the answer.

    Attributes:
        to: "document": JSON; "file": a session's file; "server": the same, kept in the server's folder.
        with_kv: also what the model read of it, so that it need not read it again.
        kv_share: how much of that, in shares of the plain 8-bit keys and values; null for all.
        id: of a saved session to replace.
    """

    to: Literal["document", "file", "server"] = "document"
    with_kv: bool = False
    kv_share: Annotated[float, Field(gt=0, le=100)] | None = KV_SHARE
    id: Annotated[str, Field(max_length=80)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.with_kv and self.to == "document":
            raise ValueError('has "with_kv", but a document has no room for that; say "to": "file" or "server"')
        if "kv_share" in self.model_fields_set and not self.with_kv:
            raise ValueError('has "kv_share", which only "with_kv": true knows')
        if self.id is not None and self.to != "server":
            raise ValueError('has "id", which only "to": "server" knows')
        return self


class LoadNpc(_Surroundings):
    """The body of `POST /v1/npcs/load`: a saved session, and what is not in it.

    Attributes:
        session: the document that `.../save` gave.
        file: or a session's file in base64.
        id: or the id of one that the server keeps.
    """

    session: dict[str, Any] | None = None
    file: Annotated[str, Field(min_length=1)] | None = None
    id: Annotated[str, Field(max_length=80)] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if [self.session, self.file, self.id].count(None) != 2:
            raise ValueError('must have one of "session", "file" and "id"')
        return self


class NoteFact(_NpcRecord):
    """The body of `POST /v1/memory`: what the game itself knows of a player.

    Attributes:
        player: whom it is about.
        character: who shall remember it: its card's id, else its name.
        text: a sentence of the game's; never a player's words.
        kind: "note", "name", "home", "trade", "promise", "debt", "deed" and others.
    """

    player: _Name
    character: _Named
    text: _Fact
    kind: Annotated[str, Field(max_length=40)] = "note"


class EditFact(_NpcRecord):
    """The body of `POST /v1/memory/{id}`: the game's words, in the place of a fact's."""

    text: _Fact


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
