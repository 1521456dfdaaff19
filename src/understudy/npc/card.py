"""Character cards: the sample worlds' entries and the community's V1, V2 and V3 JSON as one record."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from understudy.errors import CardError
from understudy.prompt.persona import Persona, persona_prompt

__all__ = ["Card", "Cast", "fill_macros", "find_card"]

_MAX_BYTES = 1 << 20
_MAX_WORDS = 130
_MAX_FOREIGN_WORDS = 300
_MACRO = re.compile(r"\{\{\s*(char|user)\s*\}\}|<(bot|user)>", re.IGNORECASE)
_ORIGINAL = re.compile(r"\{\{\s*original\s*\}\}", re.IGNORECASE)
_TEXTS = (
    "name",
    "nickname",
    "role",
    "description",
    "personality",
    "speech_style",
    "scenario",
    "first_mes",
    "mes_example",
    "system_prompt",
    "post_history_instructions",
    "goals",
    "secret",
)
_LISTS = ("alternate_greetings", "knowledge", "tools")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """A character.

    Attributes:
        name: full name.
        id: short name within its world; empty for foreign cards.
        nickname: what `{{char}}` becomes, if given (V3).
        role: trade or post.
        description: looks and history.
        personality: adjectives, or clauses divided by semicolons.
        speech_style: how it talks.
        scenario: where and how the player meets it.
        first_mes: its greeting.
        mes_example: example dialogues; kept, not shown to the model.
        system_prompt: instructions; `{{original}}` stands for what would be said without them.
        post_history_instructions: last words of the system prompt.
        alternate_greetings: other greetings.
        knowledge: ids of the lore entries that it knows; empty: all.
        goals: what it wants.
        secret: what it hides; never shown to the model.
        tools: names of the game functions that it may call.
        extensions: other programs' data.
        raw: the document that it came from, with all unknown fields.
    """

    name: str
    id: str = ""
    nickname: str = ""
    role: str = ""
    description: str = ""
    personality: str = ""
    speech_style: str = ""
    scenario: str = ""
    first_mes: str = ""
    mes_example: str = ""
    system_prompt: str = ""
    post_history_instructions: str = ""
    alternate_greetings: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    goals: str = ""
    secret: str = ""
    tools: tuple[str, ...] = ()
    extensions: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, document: Any, *, source: str = "The card") -> Self:
        """Read a V1, V2 or V3 card, or an entry of a world's characters.json.

        Args:
            document: the parsed JSON.
            source: what to call it in errors.

        Raises:
            CardError: it is no card, of an unknown kind, or a field has the wrong type.
        """
        data = _fields(document, source)
        values: dict[str, Any] = {key: _text(data, key, source) for key in _TEXTS}
        values |= {key: _texts(data, key, source) for key in _LISTS}
        name = " ".join(values.pop("name").split())
        if not name:
            raise CardError(f'{source} has no name. Give the character a "name".')
        extensions = data.get("extensions") or {}
        if not isinstance(extensions, dict):
            raise CardError(f'{source}: "extensions" must be an object {{...}}, not {_kind(extensions)}.')
        given_id = data.get("id")
        return cls(
            name=name,
            id=given_id if isinstance(given_id, str) else "",
            extensions=extensions,
            raw=document,
            **values,
        )

    def to_json(self) -> dict[str, Any]:
        """The document again: unknown fields as they came, known ones as they are now."""
        fields = {key: getattr(self, key) for key in ("id", *_TEXTS) if getattr(self, key)}
        fields |= {key: list(getattr(self, key)) for key in _LISTS if getattr(self, key)}
        if self.extensions:
            fields["extensions"] = dict(self.extensions)
        document = dict(self.raw)
        if isinstance(document.get("data"), dict) and "spec" in document:
            return {**document, "data": _merged(document["data"], fields)}
        return _merged(document, fields)

    def greeting(self, player: str) -> str:
        """What the character says first; empty where the card does not tell."""
        return fill_macros(self.first_mes, char=self.nickname or self.name, user=player)

    def instructions(self, player: str, *, place: str = "") -> str:
        """The system prompt.

        A card's own `system_prompt` stands before the persona, or around it where it says `{{original}}`, so that
        the character is never lost.

        Args:
            player: what `{{user}}` becomes.
            place: the town or world that the character lives in.
        """
        names = {"char": self.nickname or self.name, "user": player}
        persona = Persona(
            name=self.name,
            place=place,
            **{
                key: fill_macros(getattr(self, key), **names)
                for key in ("role", "description", "personality", "speech_style", "scenario")
            },
        )
        is_ours = bool(self.role or self.speech_style)
        prompt = persona_prompt(persona, max_words=_MAX_WORDS if is_ours else _MAX_FOREIGN_WORDS)
        own = fill_macros(self.system_prompt, **names).strip()
        if _ORIGINAL.search(own):
            prompt = _ORIGINAL.sub(lambda _: prompt, own)
        elif own:
            prompt = f"{own}\n\n{prompt}"
        last = _ORIGINAL.sub("", fill_macros(self.post_history_instructions, **names)).strip()
        return f"{prompt}\n\n{last}" if last else prompt


class Cast(Protocol):
    """Whoever has characters: a world."""

    @property
    def name(self) -> str:
        """What to call it in errors."""
        ...

    @property
    def characters(self) -> tuple[Card, ...]:
        """All characters."""
        ...


def fill_macros(text: str, *, char: str, user: str) -> str:
    """Replace `{{char}}`, `{{user}}`, `<BOT>` and `<USER>`, in any case, once."""
    return _MACRO.sub(lambda m: user if (m[1] or m[2]).lower() == "user" else char, text)


def find_card(spec: str, world: Cast) -> Card:
    """Find a character of the world, or read a card file.

    Args:
        spec: an id, a name, the unique beginning of one (in any case), or the path of a card's JSON.
        world: where to look first.

    Raises:
        CardError: nobody or several match, or the file is no card.
    """
    wanted = " ".join(spec.split()).casefold()
    for card in world.characters:
        if wanted in (card.id.casefold(), card.name.casefold()):
            return card
    path = Path(spec)
    if _is_file(path):
        return Card.from_json(_read_json(path), source=f"The card {path}")
    found = [c for c in world.characters if wanted and _begins(c, wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CardError(f"{spec!r} may be {_ids(found)}. Write one of them in full.")
    raise CardError(
        f"There is no character {spec!r} in {world.name} and no such file. "
        f"Choose one of {_ids(world.characters)}, or give the path of a card's JSON file."
    )


def _begins(card: Card, wanted: str) -> bool:
    name = card.name.casefold()
    starts = [card.id.casefold(), *(name[m.start() :] for m in re.finditer(r"\S+", name))]
    return any(start.startswith(wanted) for start in starts)


def _ids(cards: Sequence[Card]) -> str:
    return ", ".join(card.id or card.name for card in cards)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CardError(f"The card {path} cannot be read: {error.strerror}.") from error
    if len(content) > _MAX_BYTES:
        raise CardError(f"The card {path} is larger than 1 MiB. Take pictures and other data out of it.")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CardError(f"The card {path} is no UTF-8 text. Export the character as JSON, not as a picture.") from error
    except (ValueError, RecursionError) as error:
        raise CardError(f"The card {path} is no valid JSON: {error}. Mend it, or export it again.") from error


def _fields(document: Any, source: str) -> Mapping[str, Any]:
    """The object that holds a card's fields."""
    if not isinstance(document, dict):
        raise CardError(f"{source} must be a JSON object {{...}}, not {_kind(document)}.")
    spec = document.get("spec")
    if spec is None:
        return document
    if spec not in ("chara_card_v2", "chara_card_v3"):
        raise CardError(f"{source} says spec {spec!r}; expected 'chara_card_v2' or 'chara_card_v3', or none (V1).")
    version = document.get("spec_version", spec[-1])
    try:
        is_known = float(version) >= int(spec[-1])
    except (TypeError, ValueError, OverflowError):
        is_known = False
    if not is_known:
        raise CardError(f'{source} says spec_version {version!r}; expected "{spec[-1]}.0" with spec {spec!r}.')
    data = document.get("data")
    if not isinstance(data, dict):
        raise CardError(f'{source}: "data" must be an object {{...}} with the card\'s fields, not {_kind(data)}.')
    return data


def _text(data: Mapping[str, Any], key: str, source: str) -> str:
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CardError(f'{source}: "{key}" must be a text, not {_kind(value)}.')
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise CardError(f'{source}: "{key}" has half of a UTF-16 surrogate pair. Write the whole character.')
    return value


def _texts(data: Mapping[str, Any], key: str, source: str) -> tuple[str, ...]:
    value = data.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CardError(f'{source}: "{key}" must be a list of texts ["...", "..."].')
    return tuple(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def _merged(old: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Known fields that are empty now are left out, unless the document had them empty too."""
    known = {*_TEXTS, *_LISTS, "extensions"}
    return {key: value for key, value in old.items() if key not in known or not value} | dict(fields)
