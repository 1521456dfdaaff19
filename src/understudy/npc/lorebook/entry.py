"""A lorebook and its entries: books of V2 and V3, stand-alone ones, and world info files, as one record."""

import dataclasses
import enum
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from understudy.errors import CardError
from understudy.npc.document import dump_json, read_json, replacing
from understudy.npc.fields import Fields
from understudy.npc.lorebook.decorators import Decorators, read_decorators, split_decorators
from understudy.npc.lorebook.keys import MAX_PATTERNS, regex_of
from understudy.npc.lorebook.written import book_data

__all__ = ["Logic", "Lorebook", "LorebookEntry", "Position"]

_MAX_BYTES = 16 << 20
_DEFAULT_ORDER = 100
_DEFAULT_DEPTH = 4
_DEFAULT_WEIGHT = 100
_ROLES = ("system", "user", "assistant")
_EXTENSION_NAMES = {  # of a world-info field in the `extensions` of a V2 or V3 entry, where it is another
    "matchWholeWords": "match_whole_words",
    "useGroupScoring": "use_group_scoring",
    "caseSensitive": "case_sensitive",
    "scanDepth": "scan_depth",
    "excludeRecursion": "exclude_recursion",
    "preventRecursion": "prevent_recursion",
    "delayUntilRecursion": "delay_until_recursion",
    "groupOverride": "group_override",
    "groupWeight": "group_weight",
}


class Logic(enum.IntEnum):
    """Which secondary keys an entry wants beside a primary one; the numbers are those of the files."""

    AND_ANY = 0
    NOT_ALL = 1
    NOT_ANY = 2
    AND_ALL = 3


class Position(enum.StrEnum):
    """Where an entry's text goes."""

    BEFORE_CHAR = "before_char"
    AFTER_CHAR = "after_char"
    AT_DEPTH = "at_depth"
    BEFORE_DESC = "before_desc"
    AFTER_DESC = "after_desc"
    PERSONALITY = "personality"
    SCENARIO = "scenario"
    OUTLET = "outlet"


_OF_DECORATORS = (Position.BEFORE_DESC, Position.AFTER_DESC, Position.PERSONALITY, Position.SCENARIO)
# 2 and 3 stand around the author's note, which stands at a depth; 5 and 6 around the example dialogues, which stand
# after the character.
_POSITIONS = (
    Position.BEFORE_CHAR,
    Position.AFTER_CHAR,
    Position.AT_DEPTH,
    Position.AT_DEPTH,
    Position.AT_DEPTH,
    Position.AFTER_CHAR,
    Position.AFTER_CHAR,
    Position.OUTLET,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LorebookEntry:
    """A text that is shown to the model when its keys are said.

    Attributes:
        id: its own, else its place in the book; unique in its book.
        title: name or comment, for people.
        keys: what calls it up: words, or `/regular expression/flags`.
        secondary_keys: further keys, see `logic`.
        content: the text, without decorators.
        is_enabled: it may be called up at all.
        is_constant: it needs no key.
        is_selective: the secondary keys count.
        logic: which of them it wants.
        uses_regex: all keys are regular expressions (V3).
        order: lower stands earlier.
        priority: lower goes first where tokens run short; None: by `order`.
        position: where it goes.
        depth: how many messages stand after it, for `AT_DEPTH`.
        role: who says it there.
        case_sensitive: None: as the settings say.
        whole_words: None: as the settings say.
        scan_depth: None: as the book or the settings say; in messages.
        probability: in percent.
        groups: of entries of one group only one is taken.
        has_group_priority: it wins by its order, not by lot.
        group_weight: of the lot.
        uses_group_scoring: None: as the settings say.
        sticky: how many messages it stays.
        cooldown: how many messages it is barred after that.
        delay: how many messages there must be.
        exclude_recursion: other entries do not call it up.
        prevent_recursion: it calls up no others.
        recursion_level: it is called up by other entries only: by the levels below first. 0: by messages too.
        decorators: what the V3 decorators say.
    """

    id: str
    title: str = ""
    keys: tuple[str, ...] = ()
    secondary_keys: tuple[str, ...] = ()
    content: str = ""
    is_enabled: bool = True
    is_constant: bool = False
    is_selective: bool = False
    logic: Logic = Logic.AND_ANY
    uses_regex: bool = False
    order: float = _DEFAULT_ORDER
    priority: float | None = None
    position: Position = Position.AFTER_CHAR
    depth: int = _DEFAULT_DEPTH
    role: str = "system"
    case_sensitive: bool | None = None
    whole_words: bool | None = None
    scan_depth: int | None = None
    probability: float = 100
    groups: tuple[str, ...] = ()
    has_group_priority: bool = False
    group_weight: float = _DEFAULT_WEIGHT
    uses_group_scoring: bool | None = None
    sticky: int = 0
    cooldown: int = 0
    delay: int = 0
    exclude_recursion: bool = False
    prevent_recursion: bool = False
    recursion_level: int = 0
    decorators: Decorators = dataclasses.field(default_factory=Decorators)

    def __post_init__(self) -> None:
        if self.position in _OF_DECORATORS and self.decorators.position is None:  # nothing else can say it in a file
            decorators = dataclasses.replace(self.decorators, position=str(self.position))
            object.__setattr__(self, "decorators", decorators)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes when the entry does: timed effects end then."""
        return hashlib.blake2b(repr(self).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lorebook:
    """Entries and what holds for all of them, read from a file or made in code.

    `Lorebook(name="ferry", entries=(LorebookEntry(id="dawn", keys=("ferry",), content="It leaves at dawn."),))`

    Attributes:
        name: for people, and for saved games: one name for each book of a character.
        scan_depth: how many of the last messages are searched for keys; None: as the settings say.
        token_budget: most tokens of this book's entries together; None: no limit of its own.
        is_recursive: entries call up entries; None: as the settings say.
        entries: in the author's order.
        raw: the document that it came from.
    """

    name: str = ""
    scan_depth: int | None = None
    token_budget: int | None = None
    is_recursive: bool | None = None
    entries: tuple[LorebookEntry, ...] = ()
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a lorebook file: see `from_json`.

        Raises:
            CardError: it cannot be read, is larger than 16 MiB, or is no lorebook.
        """
        source = f"The lorebook {path}"
        return cls.from_json(read_json(Path(path), limit=_MAX_BYTES, source=source), source=source)

    @classmethod
    def from_json(cls, document: Any, *, source: str = "The lorebook") -> Self:
        """Read a `character_book`, a `lorebook_v3` document, or world info (`entries` is an object).

        Args:
            document: the parsed JSON.
            source: what to call it in errors.

        Raises:
            CardError: it is no lorebook, or a field has the wrong type.
        """
        data = document
        if isinstance(document, dict) and document.get("spec") == "lorebook_v3":
            data = document.get("data")
        elif isinstance(document, dict) and "spec" in document:
            raise CardError(f"{source} says spec {document['spec']!r}; expected 'lorebook_v3', or none.")
        if not isinstance(data, dict) or not isinstance(data.get("entries"), list | dict):
            raise CardError(f'{source} is no lorebook: it needs "entries", a list or an object of entries.')
        head = Fields(data, source)
        is_world_info = isinstance(data["entries"], dict)
        items = data["entries"].items() if is_world_info else enumerate(data["entries"])
        read = _world_info_entry if is_world_info else _book_entry
        entries = [read(Fields(value, f"{source}: entry {key}"), str(key)) for key, value in items]
        num_patterns = sum(regex_of(key, is_regex=e.uses_regex) is not None for e in entries for key in e.keys)
        if num_patterns > MAX_PATTERNS:
            raise CardError(
                f"{source} has {num_patterns} regular expressions as keys; at most {MAX_PATTERNS} are read. "
                "Use plain words, or divide the book."
            )
        return cls(
            name=head.text("name"),
            scan_depth=head.count("scan_depth"),
            token_budget=head.count("token_budget"),
            is_recursive=head.flag("recursive_scanning"),
            entries=tuple(_with_unique_ids(entries)),
            raw=document,
        )

    def to_json(self) -> dict[str, Any]:
        """The document that it came from; of a book that was made in code, a `lorebook_v3`.

        Raises:
            CardError: it was changed since it was read, or holds what no file can say.
        """
        document = dict(self.raw) or {"spec": "lorebook_v3", "data": book_data(self)}
        again = type(self).from_json(document, source=f"The lorebook {self.name!r}")
        if again == self:
            return document
        if self.raw:
            raise CardError(
                f"The lorebook {self.name!r} was changed in code since it was read. Change its document and read that "
                "with Lorebook.from_json; or write it without what other programs keep in it: "
                "dataclasses.replace(book, raw={})."
            )
        pairs = zip(self.entries, again.entries, strict=True)
        entry = next((one.id for one, other in pairs if one != other), None)
        where = "its name or its limits" if entry is None else f"its entry {entry!r}"
        raise CardError(
            f"The lorebook {self.name!r} cannot be written: {where} would be read as something else. Ids must be "
            "unique and not empty, decorators must agree with the other fields, and the content must not begin with @@."
        )

    def save(self, path: str | Path) -> None:
        """Write a lorebook file, whole or not at all: see `to_json`.

        Raises:
            CardError: it cannot be written.
        """
        document, path = self.to_json(), Path(path)
        try:
            with replacing(path) as file:
                file.write(dump_json(document, indent=1) + b"\n")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise CardError(f"Cannot save to {path}: {why}. Choose a file in a folder that exists.") from error


def _book_entry(fields: Fields, key: str) -> LorebookEntry:
    """Read an entry of V2 or V3; the fields of world info stand in its `extensions`."""
    value = fields.value
    extensions = value.get("extensions")
    if extensions is None:
        extensions = {}
    more = Fields(extensions, f'{fields.source}: "extensions"')
    named = {other: more.value.get(name, more.value.get(other)) for other, name in _EXTENSION_NAMES.items()}
    common = Fields({**more.value, **named}, more.source)
    if value.get("position") not in (None, "", "before_char", "after_char"):
        raise fields.wrong("position", '"before_char" or "after_char"')
    is_before = value.get("position") == "before_char"
    return _entry(
        common,
        fields.text("content"),
        default_position=Position.BEFORE_CHAR if is_before else Position.AFTER_CHAR,
        id=_id(value.get("id"), key),
        title=fields.text("name") or fields.text("comment"),
        keys=fields.texts("keys"),
        secondary_keys=fields.texts("secondary_keys"),
        is_enabled=fields.flag("enabled") is not False,
        is_constant=bool(fields.flag("constant")),
        is_selective=bool(fields.flag("selective")),
        uses_regex=bool(fields.flag("use_regex")),
        order=_or(fields.number("insertion_order"), _DEFAULT_ORDER),
        priority=fields.number("priority"),
        case_sensitive=_or(fields.flag("case_sensitive"), common.flag("caseSensitive")),
    )


def _world_info_entry(fields: Fields, key: str) -> LorebookEntry:
    """Read an entry of a world info file."""
    return _entry(
        fields,
        fields.text("content"),
        default_position=Position.BEFORE_CHAR,
        id=_id(fields.value.get("uid"), key),
        title=fields.text("comment"),
        keys=fields.texts("key"),
        secondary_keys=fields.texts("keysecondary"),
        is_enabled=not fields.flag("disable"),
        is_constant=bool(fields.flag("constant")),
        is_selective=fields.flag("selective") is not False,
        order=_or(fields.number("order"), _DEFAULT_ORDER),
        case_sensitive=fields.flag("caseSensitive"),
    )


def _entry(fields: Fields, content: str, *, default_position: Position, **values: Any) -> LorebookEntry:
    """The fields of world info, by their names there."""
    lines, text = split_decorators(content)
    decorators = read_decorators(lines)
    number = fields.one_of("position", len(_POSITIONS))
    level = fields.value.get("delayUntilRecursion")
    role = fields.one_of("role", len(_ROLES))
    is_rolled = fields.flag("useProbability") is not False
    position = default_position if number is None else _POSITIONS[number]
    if decorators.position:
        position = Position(decorators.position)
    elif decorators.depth is not None or decorators.reverse_depth is not None:
        position = Position.AT_DEPTH
    depth, scan_depth = fields.count("depth"), fields.count("scanDepth")
    return LorebookEntry(
        content=text,
        decorators=decorators,
        position=position,
        depth=_or(_or(decorators.depth, depth), _DEFAULT_DEPTH),
        role=decorators.role or _ROLES[role or 0],
        logic=Logic(fields.one_of("selectiveLogic", len(Logic)) or 0),
        whole_words=fields.flag("matchWholeWords"),
        scan_depth=_or(decorators.scan_depth, scan_depth),
        probability=min(_or(fields.number("probability", least=0), 100), 100) if is_rolled else 100,
        groups=tuple(filter(None, (group.strip() for group in fields.text("group").split(",")))),
        has_group_priority=bool(fields.flag("groupOverride")),
        group_weight=_or(fields.number("groupWeight", least=0), _DEFAULT_WEIGHT),
        uses_group_scoring=fields.flag("useGroupScoring"),
        sticky=fields.count("sticky") or 0,
        cooldown=fields.count("cooldown") or 0,
        delay=fields.count("delay") or 0,
        exclude_recursion=bool(fields.flag("excludeRecursion")),
        prevent_recursion=bool(fields.flag("preventRecursion")),
        recursion_level=int(level) if isinstance(level, bool) else fields.count("delayUntilRecursion") or 0,
        **values,
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _id(given: Any, key: str) -> str:
    return str(given) if isinstance(given, str | int) and not isinstance(given, bool) and given != "" else key


def _with_unique_ids(entries: Sequence[LorebookEntry]) -> list[LorebookEntry]:
    """Where two have one id, the later ones get their place added: timed effects are kept by id."""
    seen: set[str] = set()
    unique = []
    for number, entry in enumerate(entries):
        name = entry.id
        while name in seen:
            name = f"{name}#{number}"
        seen.add(name)
        unique.append(entry if name == entry.id else dataclasses.replace(entry, id=name))
    return unique
