"""Loads the content files and compiles their templates once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from .names import NameMaker
from .numbers import Amounts
from .text import Template, article

__all__ = [
    "COMMON",
    "Ask",
    "Entry",
    "Fact",
    "Group",
    "Maker",
    "Slots",
    "Small",
    "Style",
    "Tell",
    "Templates",
    "entries",
    "load_fact",
    "load_facts",
    "load_groups",
    "load_small",
    "load_styles",
    "load_tells",
    "local_lists",
    "mapping",
    "need",
    "parse",
    "read_json",
    "read_object",
    "slot_makers",
    "slot_names",
    "strings",
]

Maker = Callable[[], str]
Entry = Mapping[str, object]
Templates = tuple[Template, ...]

COMMON = ("name", "first", "role", "place", "player")


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions about one slot and the answers that hold its value."""

    slot: str
    questions: Templates
    answers: Templates


@dataclass(frozen=True, slots=True)
class Fact:
    """One kind of fact with all its wordings."""

    id: str
    group: str
    slots: tuple[tuple[str, Maker], ...]
    statements: Templates
    short: Templates
    fields: Templates
    third: Templates
    asks: tuple[Ask, ...]
    followups: tuple[tuple[Template, Template], ...]

    def values(self) -> dict[str, str]:
        """Draws a fresh value for each slot; two slots of one fact never hold the same."""
        out: dict[str, str] = {}
        for slot, make in self.slots:
            value = make()
            for _ in range(5):
                if value not in out.values():
                    break
                value = make()
            out[slot] = value
        return out


@dataclass(frozen=True, slots=True)
class Group:
    """Facts that describe one subject, and how to name such a subject."""

    id: str
    facts: tuple[Fact, ...]
    subject: Maker


@dataclass(frozen=True, slots=True)
class Tell:
    """Something that the player tells and asks back later."""

    id: str
    slots: tuple[tuple[str, Maker], ...]
    tells: Templates
    reactions: Templates
    questions: Templates
    answers: Templates


@dataclass(frozen=True, slots=True)
class Small:
    """Small talk; where it has slots, the player names something and the answer takes it up."""

    id: str
    slots: tuple[tuple[str, Maker], ...]
    questions: Templates
    answers: Templates


@dataclass(frozen=True, slots=True)
class Style:
    """A way of speaking."""

    system: Templates
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]


class Slots:
    """Turns slot types into makers of random values."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        """Binds all built-in makers to one source of chance.

        Args:
            folder: where wordlists.json and names.json lie.
            rng: the source of chance.
        """
        self._rng = rng
        words = read_object(folder / "wordlists.json")
        self._lists = {name: strings(words, name, "wordlists.json") for name in words}
        parts = read_object(folder / "names.json")
        names = NameMaker(rng, parts)
        coins = strings(parts, "coin", "names.json"), strings(parts, "long_coin", "names.json")
        amounts = Amounts(rng, *coins)
        self.names = names
        self._made: dict[str, Maker] = {
            "person": names.person,
            "firstname": names.first,
            "surname": names.surname,
            "place": names.place,
            "shop": names.shop,
            "ship": names.ship,
            "number_small": amounts.small,
            "int_small": amounts.few,
            "digits": amounts.digits,
            "number": amounts.number,
            "price": amounts.price,
            "year": amounts.year,
            "clock": amounts.clock,
            "duration": amounts.duration,
            "count_people": amounts.people,
            "distance": amounts.distance,
            "age": amounts.age,
        }
        self._alias = {"day": "weekday", "job": "role"}

    def learn(self, lists: Mapping[str, list[str]]) -> None:
        """Adds lists that a content file brings along, for use by other entries too."""
        for name, words in lists.items():
            self._lists.setdefault(name, words)

    def maker(self, kind: str, local: Mapping[str, list[str]], where: str) -> Maker:
        """Returns a maker for a slot type.

        Args:
            kind: the slot type; "a:TYPE" puts an article before the value.
            local: lists of the entry itself, which come first.
            where: the file and entry, named in errors.

        Raises:
            ValueError: if nothing by that name is known.
        """
        if kind.startswith("a:"):
            inner = self.maker(kind[2:], local, where)
            return lambda: article(inner())
        if kind in local:
            return self._from_list(local[kind])
        if kind in self._made:
            return self._made[kind]
        name = self._alias.get(kind, kind)
        if name not in self._lists:
            raise ValueError(f"{where}: unknown slot type {kind!r}")
        return self._from_list(self._lists[name])

    def _from_list(self, words: list[str]) -> Maker:
        chance, size = self._rng.random, len(words)
        return lambda: words[int(chance() * size)]


def read_json(path: Path) -> object:
    """Reads a JSON file.

    Raises:
        ValueError: if it is missing or not JSON.
    """
    try:
        return cast(object, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def read_object(path: Path) -> Entry:
    """Reads a content file that is one object."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path.name}: not an object")
    return cast(Entry, data)


def entries(path: Path) -> list[Entry]:
    """Reads a content file that is a list of objects."""
    data = read_json(path)
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise ValueError(f"{path.name}: not a list of objects")
    return [cast(Entry, one) for one in data]


def strings(entry: Entry, key: str, where: str) -> list[str]:
    """Returns a list of strings, empty if the key is missing."""
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{where}: {key!r} is not a list of strings")
    return cast(list[str], value)


def mapping(entry: Entry, key: str, where: str) -> dict[str, object]:
    """Returns an object, empty if the key is missing."""
    value = entry.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {key!r} is not an object")
    return cast(dict[str, object], value)


def local_lists(entry: Entry, where: str) -> dict[str, list[str]]:
    """Returns the word lists that an entry brings along."""
    lists = mapping(entry, "lists", where)
    return {name: strings(lists, name, where) for name in lists}


def slot_makers(entry: Entry, slots: Slots, where: str) -> tuple[tuple[str, Maker], ...]:
    """Returns the makers of an entry's slots."""
    lists = local_lists(entry, where)
    kinds = mapping(entry, "slots", where)
    return tuple((slot, slots.maker(str(kind), lists, where)) for slot, kind in kinds.items())


def parse(texts: Collection[str], known: Collection[str], where: str) -> Templates:
    """Parses all strings of a list."""
    return tuple(Template(text, known, where) for text in texts)


def need(templates: Templates, where: str, what: str) -> Templates:
    """Returns the templates.

    Raises:
        ValueError: if there are none.
    """
    if not templates:
        raise ValueError(f"{where}: no usable {what}")
    return templates


def _asks(entry: Entry, known: Collection[str], where: str) -> tuple[Ask, ...]:
    questions = {"x": strings(entry, "questions", where)}
    answers = {"x": strings(entry, "answers", where)}
    by_slot, said = mapping(entry, "ask", where), mapping(entry, "answers_by", where)
    for slot in by_slot:
        questions[slot] = strings(by_slot, slot, where)
        answers[slot] = strings(said, slot, where)
    if by_slot and not entry.get("answers"):
        questions = {slot: texts for slot, texts in questions.items() if slot in by_slot}
    asks = []
    for slot, texts in questions.items():
        full = tuple(t for t in parse(answers[slot], known, where) if slot in t.needs)
        asked = tuple(t for t in parse(texts, known, where) if slot not in t.needs)
        need(full, where, f"answers with {{{slot}}}")
        asks.append(Ask(slot, need(asked, where, f"questions about {{{slot}}}"), full))
    return tuple(asks)


def load_fact(entry: Entry, slots: Slots, where: str) -> Fact:
    """Compiles one fact of facts_persona.json or facts_lore.json."""
    makers = slot_makers(entry, slots, where)
    known = {*COMMON, "subject", *(slot for slot, _ in makers)}
    follow = []
    for pair in cast(list[Entry], entry.get("followups", [])):
        texts = parse((str(pair["q"]), str(pair["a"])), known, where)
        follow.append((texts[0], texts[1]))

    def some(key: str) -> Templates:
        return parse(strings(entry, key, where), known, where)

    return Fact(
        id=str(entry.get("id", "")),
        group=str(entry.get("group", "")),
        slots=makers,
        statements=need(some("statements"), where, "statements"),
        short=some("short"),
        fields=some("fields"),
        third=some("third"),
        asks=_asks(entry, known, where),
        followups=tuple(follow),
    )


def load_facts(path: Path, slots: Slots) -> list[tuple[Fact, Entry]]:
    """Compiles a file of facts; lists of all entries become known first."""
    found = entries(path)
    for entry in found:
        slots.learn(local_lists(entry, path.name))
    return [(load_fact(entry, slots, f"{path.name}:{entry.get('id')}"), entry) for entry in found]


def load_groups(path: Path, slots: Slots) -> tuple[Group, ...]:
    """Compiles facts_lore.json into groups of facts about one subject."""
    members: dict[str, list[tuple[Fact, Entry]]] = {}
    for fact, entry in load_facts(path, slots):
        members.setdefault(fact.group, []).append((fact, entry))
    groups = []
    for name, pairs in members.items():
        where = f"{path.name}:{name}"
        forms = [form for _, entry in pairs for form in strings(entry, "subject_forms", where)]
        lists: dict[str, list[str]] = {}
        for _, entry in pairs:
            lists.update(local_lists(entry, where))
        subject = _subject(forms or [f"{{{pairs[0][1]['subject']}}}"], slots, lists, where)
        groups.append(Group(name, tuple(fact for fact, _ in pairs), subject))
    return tuple(groups)


def _subject(forms: list[str], slots: Slots, lists: Mapping[str, list[str]], where: str) -> Maker:
    """Returns a maker of subjects from forms such as "the {place} ferry"."""
    kinds = {kind for form in forms for kind in slot_names(form)}
    makers = {kind: slots.maker(kind, lists, where) for kind in kinds}
    templates = parse(forms, kinds, where)
    choice = slots.names.choice

    def make() -> str:
        one = choice(templates)
        return one.render({kind: makers[kind]() for kind in sorted(one.needs)})

    return make


def slot_names(text: str) -> list[str]:
    """Returns the names inside braces, in order."""
    return [part.split("}", 1)[0] for part in text.split("{")[1:]]


def load_tells(path: Path, slots: Slots) -> tuple[Tell, ...]:
    """Compiles recall.json."""
    found = entries(path)
    for entry in found:
        slots.learn(local_lists(entry, path.name))
    out = []
    for at, entry in enumerate(found):
        where = f"{path.name}:{entry.get('id', at)}"
        makers = slot_makers(entry, slots, where)
        known = {*COMMON, *(slot for slot, _ in makers)}
        lines = {
            key: need(parse(strings(entry, key, where), known, where), where, key)
            for key in ("tells", "reactions", "questions", "answers")
        }
        out.append(
            Tell(
                id=str(entry.get("id", at)),
                slots=makers,
                tells=need(tuple(t for t in lines["tells"] if "x" in t.needs), where, "tells"),
                reactions=lines["reactions"],
                questions=tuple(t for t in lines["questions"] if "x" not in t.needs),
                answers=need(tuple(t for t in lines["answers"] if "x" in t.needs), where, "answers"),
            )
        )
    return tuple(out)


def load_small(path: Path, slots: Slots) -> tuple[Small, ...]:
    """Compiles smalltalk.json."""
    out = []
    for entry in entries(path):
        where = f"{path.name}:{entry.get('id')}"
        makers = slot_makers(entry, slots, where)
        known = {*COMMON, *(slot for slot, _ in makers)}
        pair = [need(parse(strings(entry, key, where), known, where), where, key) for key in ("questions", "answers")]
        out.append(Small(str(entry.get("id")), makers, pair[0], pair[1]))
    return tuple(out)


def load_styles(path: Path) -> tuple[Style, ...]:
    """Compiles styles.json."""
    out = []
    for entry in entries(path):
        where = f"{path.name}:{entry.get('id')}"
        system = need(parse(strings(entry, "system", where), COMMON, where), where, "system")
        prefix = tuple(strings(entry, "prefix", where)) or ("",)
        suffix = tuple(strings(entry, "suffix", where)) or ("",)
        for text in (*prefix, *suffix):
            Template(text, (), where)
        out.append(Style(system, prefix, suffix))
    return tuple(out)
