"""Character cards: the sample worlds' entries and the community's V1, V2 and V3 cards as one record."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from understudy.errors import CardError
from understudy.npc.card_file import CardFile, asset_bytes, read_card_file, write_card_file
from understudy.npc.card_versions import OUR_NAME, CardVersion, card_fields, card_version
from understudy.npc.fields import Fields
from understudy.npc.lorebook import Lorebook
from understudy.npc.macros import MacroScope, fill_macros, has_original
from understudy.prompt.persona import Persona, persona_prompt

__all__ = ["Asset", "Card", "Cast", "find_card"]

_MAX_WORDS = 130
_MAX_FOREIGN_WORDS = 300
_TEXTS = (
    "name",
    "nickname",
    "description",
    "personality",
    "scenario",
    "first_mes",
    "mes_example",
    "system_prompt",
    "post_history_instructions",
    "creator_notes",
    "creator",
    "character_version",
)
_LISTS = ("alternate_greetings", "group_only_greetings", "tags", "source")
_OUR_TEXTS = ("role", "speech_style", "goals", "secret")
_OUR_LISTS = ("knowledge", "tools")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asset:
    """A picture, sound or other file of a character (V3).

    Attributes:
        type: what it is for: icon, background, user_icon, emotion or another.
        uri: where it is: `embeded://path`, `ccdefault:`, a data: or web address.
        name: e.g. main, or the emotion.
        ext: ending of its file name.
    """

    type: str = "icon"
    uri: str = "ccdefault:"
    name: str = "main"
    ext: str = "png"


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
        group_only_greetings: further ones, for several characters at once (V3).
        knowledge: ids of the lore entries that it knows; empty: all.
        goals: what it wants.
        secret: what it hides; never shown to the model.
        tools: names of the game functions that it may call.
        creator_notes: for people, never shown to the model; see `notes`.
        creator_notes_multilingual: the same by language, e.g. "de" (V3).
        creator: who made the card.
        character_version: of the character, in the creator's words.
        tags: for people.
        source: where the card comes from (V3).
        assets: pictures and other files (V3).
        lorebook: the character's own; see `scan_lorebooks`.
        extensions: other programs' data; ours is in the fields above.
        raw: the document that it came from, with all unknown fields.
        picture: its portrait, a PNG; empty where it has none.
        files: what `assets` names inside the card, by path.
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
    group_only_greetings: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    goals: str = ""
    secret: str = ""
    tools: tuple[str, ...] = ()
    creator_notes: str = ""
    creator_notes_multilingual: Mapping[str, str] = dataclasses.field(default_factory=dict)
    creator: str = ""
    character_version: str = ""
    tags: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    assets: tuple[Asset, ...] = (Asset(),)
    lorebook: Lorebook | None = None
    extensions: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    picture: bytes = dataclasses.field(default=b"", repr=False, compare=False)
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a card file: JSON of any version, PNG or APNG with a card in it, or .charx.

        Raises:
            CardError: it cannot be read, is damaged, too large, or no card; the text says where and what to do.
        """
        file = read_card_file(path)
        card = cls.from_json(file.document, source=f"The card {path}")
        return dataclasses.replace(card, picture=file.picture, files=file.files)

    def save(self, path: Path, *, version: CardVersion | None = None) -> None:
        """Write the card, whole or not at all; unknown fields stay.

        Args:
            path: a file in .json (without picture and files), .png, .apng or .charx.
            version: of the card's format; default: as it came, for a .charx always V3.

        Raises:
            CardError: the ending is another, there is no picture for a PNG, or the file cannot be written.
        """
        write_card_file(path, self._file(), version=version)

    @classmethod
    def from_json(cls, document: Any, *, source: str = "The card") -> Self:
        """Read a V1, V2 or V3 card, or an entry of a world's characters.json.

        Args:
            document: the parsed JSON.
            source: what to call it in errors.

        Raises:
            CardError: it is no card, of an unknown kind, or a field has the wrong type.
        """
        fields = Fields(card_fields(document, source), source)
        extensions = fields.object("extensions")
        ours = fields
        if card_version(document) != "v1":  # elsewhere these names may mean something else
            ours = Fields(extensions.get(OUR_NAME) or {}, f'{source}: "{OUR_NAME}" of "extensions"')
        values: dict[str, Any] = {key: fields.text(key) for key in _TEXTS}
        values |= {key: fields.texts(key) for key in _LISTS}
        values |= {key: ours.text(key) for key in _OUR_TEXTS}
        values |= {key: ours.texts(key) for key in _OUR_LISTS}
        values["name"] = " ".join(values["name"].split())
        if not values["name"]:
            raise CardError(f'{source} has no name. Give the character a "name".')
        given_id = ours.value.get("id")
        notes = Fields(fields.object("creator_notes_multilingual"), f'{source}: "creator_notes_multilingual"')
        book = fields.object("character_book")
        return cls(
            id=given_id if isinstance(given_id, str) else "",
            creator_notes_multilingual={language: notes.text(language) for language in notes.value},
            assets=_assets(fields),
            lorebook=Lorebook.from_json(book, source=f'{source}: "character_book"') if book else None,
            extensions=extensions if ours is fields else {k: v for k, v in extensions.items() if k != OUR_NAME},
            raw=document,
            **values,
        )

    def to_json(self) -> dict[str, Any]:
        """The document again: what was not changed since it was read is as it came."""
        before = type(self).from_json(self.raw) if self.raw else Card(name="")
        document = dict(self.raw)
        is_flat = card_version(document) == "v1"
        data = document if is_flat else dict(document["data"])
        for key in ("extensions", "creator_notes_multilingual", *_TEXTS, *_LISTS):
            _update(data, key, getattr(before, key), getattr(self, key))
        _update(data, "assets", before.assets, self.assets)
        if self.lorebook != before.lorebook:
            data.pop("character_book", None)
            if self.lorebook:
                book = self.lorebook.to_json()
                data["character_book"] = book["data"] if book.get("spec") else book
        if is_flat:
            for key in ("id", *_OUR_TEXTS, *_OUR_LISTS):
                _update(data, key, getattr(before, key), getattr(self, key))
            return data
        ours = dict((document["data"].get("extensions") or {}).get(OUR_NAME) or {})
        for key in ("id", *_OUR_TEXTS, *_OUR_LISTS):
            _update(ours, key, getattr(before, key), getattr(self, key))
        if ours:
            data["extensions"] = {**(data.get("extensions") or {}), OUR_NAME: ours}
        return {**document, "data": data}

    @property
    def version(self) -> CardVersion:
        """Which version of the format it came in."""
        return card_version(self.raw)

    @property
    def char(self) -> str:
        """What `{{char}}` becomes."""
        return self.nickname or self.name

    def greetings(self, *, is_group: bool = False) -> tuple[str, ...]:
        """All first lines as they are written, the usual one first.

        Args:
            is_group: several characters meet the player: those for groups are added.
        """
        return (self.first_mes, *self.alternate_greetings, *(self.group_only_greetings if is_group else ()))

    def greeting(self, player: str, *, number: int = 0, is_group: bool = False, seed: int = 0) -> str:
        """What the character says first; empty where the card does not tell.

        Args:
            player: what `{{user}}` becomes.
            number: which of `greetings`.
            is_group: see `greetings`.
            seed: of the card's dice.

        Raises:
            CardError: there are not so many.
        """
        greetings = self.greetings(is_group=is_group)
        if not 0 <= number < len(greetings):
            raise CardError(f"{self.name} has no greeting {number}. Choose one from 0 to {len(greetings) - 1}.")
        return fill_macros(greetings[number], MacroScope(char=self.char, user=player, seed=seed))

    def notes(self, language: str = "en") -> str:
        """The creator's notes in a language ("de", "pt-BR"), else in English, else as they are."""
        wanted = re.split(r"[-_]", language.lower())[0]
        notes = {"en": self.creator_notes, **self.creator_notes_multilingual}
        return notes.get(wanted) or notes["en"] or next(iter(filter(None, notes.values())), "")

    def asset(self, asset: Asset) -> bytes:
        """An asset's content.

        Raises:
            CardError: it is not inside the card; nothing is fetched.
        """
        return asset_bytes(asset.uri, self._file())

    def instructions(self, player: str, *, place: str = "", seed: int = 0) -> str:
        """The system prompt.

        A card's own `system_prompt` stands before the persona, or around it where it says `{{original}}`, so that
        the character is never lost.

        Args:
            player: what `{{user}}` becomes.
            place: the town or world that the character lives in.
            seed: of the card's dice; with one seed the prompt is the same in every turn.
        """
        scope = MacroScope(char=self.char, user=player, seed=seed)
        persona = Persona(
            name=self.name,
            place=place,
            **{
                key: fill_macros(getattr(self, key), scope)
                for key in ("role", "description", "personality", "speech_style", "scenario")
            },
        )
        is_ours = bool(self.role or self.speech_style)
        prompt = persona_prompt(persona, max_words=_MAX_WORDS if is_ours else _MAX_FOREIGN_WORDS)
        own = fill_macros(self.system_prompt, dataclasses.replace(scope, original=prompt)).strip()
        if own:
            prompt = own if has_original(self.system_prompt) else f"{own}\n\n{prompt}"
        last = fill_macros(self.post_history_instructions, scope).strip()
        return f"{prompt}\n\n{last}" if last else prompt

    def _file(self) -> CardFile:
        return CardFile(document=self.to_json(), picture=self.picture, files=self.files)


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


def find_card(spec: str, world: Cast) -> Card:
    """Find a character of the world, or read a card file.

    Args:
        spec: an id, a name, the unique beginning of one (in any case), or the path of a card: JSON, PNG or .charx.
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
        return Card.load(path)
    found = [c for c in world.characters if wanted and _begins(c, wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CardError(f"{spec!r} may be {_ids(found)}. Write one of them in full.")
    raise CardError(
        f"There is no character {spec!r} in {world.name} and no such file. "
        f"Choose one of {_ids(world.characters)}, or give the path of a card file."
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


def _assets(fields: Fields) -> tuple[Asset, ...]:
    """No list is as good as the default one."""
    given = fields.value.get("assets")
    if given is None:
        return (Asset(),)
    if not isinstance(given, list):
        raise fields.wrong("assets", "a list of objects")
    items = [Fields(item, f"{fields.source}: asset {number}") for number, item in enumerate(given)]
    return tuple(Asset(**{key: item.text(key) for key in ("type", "uri", "name", "ext")}) for item in items)


def _update(target: dict[str, Any], key: str, old: Any, new: Any) -> None:
    """Write a field that was changed, in the types of JSON."""
    if new == old:
        return
    if isinstance(new, tuple):
        target[key] = [dataclasses.asdict(item) if isinstance(item, Asset) else item for item in new]
    else:
        target[key] = dict(new) if isinstance(new, Mapping) else new
