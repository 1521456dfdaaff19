"""Random characters and the many shapes of their system prompts."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from .content import (
    COMMON,
    Ask,
    Entry,
    Fact,
    Maker,
    Slots,
    Style,
    Templates,
    load_facts,
    load_styles,
    need,
    parse,
    read_object,
    strings,
)
from .text import Template, choose, sentence_case

__all__ = ["MAX_WORDS", "Character", "PersonaKit", "Stated"]

MAX_WORDS = 112
MAX_PORTRAIT_WORDS = 140
_LONG_WORDS = 230
_LONG_SHARE = 0.25  # of made-up characters: a long card, with up to fourteen facts

_SENTENCES = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_TOLD_BY_CARDS = ("age", "home_town", "pb_build_hair", "siblings", "years_in_trade")


@dataclass(slots=True)
class Stated:
    """A fact that the prompt states, with its values and the questions still open."""

    fact: Fact
    env: dict[str, str]
    left: list[Ask]


@dataclass(slots=True)
class Character:
    """Somebody to be played.

    Attributes:
        env: name, first name and, only when the prompt states them, role and place.
        stated: the facts in the prompt.
        style: the manner of speaking, if any.
        system: the system prompt.
        lines: style, scenario and rule lines at the end of the prompt.
        is_real: whether it is a hand-written card, of which more is told than `stated` knows.
    """

    env: dict[str, str]
    stated: list[Stated] = field(default_factory=list)
    style: Style | None = None
    system: str = ""
    is_real: bool = False


class PersonaKit:
    """Makes characters from the content files."""

    def __init__(self, folder: Path, slots: Slots, rng: random.Random) -> None:
        """Compiles facts, styles and prompt shapes.

        Args:
            folder: where the content files lie.
            slots: makers of slot values.
            rng: the source of chance.
        """
        self._rng = rng
        self._names = slots.names
        self._role: Maker = slots.maker("role", {}, "prompts.json")
        self.facts = tuple(fact for fact, _ in load_facts(folder / "facts_persona.json", slots))
        self.styles = load_styles(folder / "styles.json")
        shapes = read_object(folder / "prompts.json")
        self.raw = shapes
        self._openings = self._parse(shapes, "openings")
        self._orders = self._parse(shapes, "orders")
        self._third = self._parse(shapes, "third")
        self._third_end = self._parse(shapes, "third_end")
        self._scenarios = self._parse(shapes, "scenarios")
        self._rules = self._parse(shapes, "rules")
        self.background, self._real = _background(folder / "background.json")
        self._joins = strings(shapes, "card_joins", "prompts.json:card_joins")
        cards = cast(list[list[str]], shapes["cards"])
        self._cards = tuple(parse(card, COMMON, "prompts.json:cards") for card in cards)
        self.identity = tuple(_identity(cast(Entry, one)) for one in cast(list[object], shapes["identity"]))
        self._never_unstated = frozenset(strings(shapes, "never_unstated", "prompts.json"))
        self.place_facts = frozenset(strings(shapes, "place_facts", "prompts.json"))
        self._rivals = _related(cast(list[list[str]], shapes["related"]))

    @staticmethod
    def _parse(shapes: Entry, key: str) -> Templates:
        where = f"prompts.json:{key}"
        return need(parse(strings(shapes, key, where), COMMON, where), where, key)

    def make(self, least: int, most: int, extra: str = "") -> Character:
        """Makes a character with a system prompt.

        Args:
            least: the fewest facts to state.
            most: the most facts to state.
            extra: a line for the end of the prompt.

        Returns:
            The character.
        """
        rng = self._rng
        if most > 3 and rng.random() < _LONG_SHARE:
            least, most, max_words = most, 14, _LONG_WORDS
        else:
            max_words = MAX_WORDS
        name, first = self._names.parts()
        role, place = self._role(), self._names.place()
        full = {"name": name, "first": first, "role": role, "place": place}
        shape = rng.random()
        if shape < 0.14:
            one = Character({}, style=self._style())
            self._card(one, full, self._pick(least, most), max_words)
        else:
            kind = self._third if shape < 0.28 else self._orders if shape < 0.43 else self._openings
            opening = self._names.choice(kind)
            env = {slot: full[slot] for slot in (*opening.needs, "name", "first")}
            one = Character(env, style=self._style())
            self._flow(one, opening, kind is self._third, self._pick(least, most), max_words)
            if kind is self._openings and rng.random() < 0.6:
                self._portrait(one, max_words)
        tail = self._tail(one, extra)
        if tail:
            one.system += ("\n" if "\n" in one.system else " ") + tail
        return one

    def make_real(self, least: int, most: int, extra: str = "") -> Character:
        """Takes the card of a hand-written character, with facts of ours put between its sentences.

        Args:
            least: the fewest facts to put in.
            most: the most facts to put in.
            extra: a line for the end of the prompt.
        """
        rng = self._rng
        card = rng.choice(self._real)
        one = Character({slot: card[slot] for slot in ("name", "first", "role", "place")}, is_real=True)
        lines = _SENTENCES.split(card["system"])
        for fact in self._pick(least, most):
            if fact.id not in _TOLD_BY_CARDS and (line := self._state(one, fact, fact.statements)):
                lines.insert(rng.randint(1, len(lines)), line)
        one.system = " ".join([*lines, extra]).strip()
        return one

    def _style(self) -> Style | None:
        return self._names.choice(self.styles) if self._rng.random() < 0.28 else None

    def _pick(self, least: int, most: int) -> list[Fact]:
        """Draws facts of which no two can be taken for each other."""
        rng = self._rng
        count = rng.randint(least, most)
        picked: list[Fact] = []
        barred: set[str] = set()
        for fact in rng.sample(self.facts, min(len(self.facts), count + 4)):
            if len(picked) == count:
                break
            if fact.id not in barred:
                picked.append(fact)
                barred |= self._rivals.get(fact.id, frozenset()) | {fact.id}
        return picked

    def _state(self, one: Character, fact: Fact, wordings: Templates) -> str | None:
        """States a fact about the character; None if no wording fits what is known."""
        env = {**one.env, **fact.values()}
        taken = {value for other in one.stated for value in other.env.values()}
        if any(env[slot] in taken for slot, _ in fact.slots):
            return None
        template = choose(self._rng, wordings, env, must=[slot for slot, _ in fact.slots])
        if template is None:
            return None
        one.stated.append(Stated(fact, env, list(fact.asks)))
        return sentence_case(template.render(env))

    def _flow(self, one: Character, opening: Template, third: bool, facts: list[Fact], max_words: int) -> None:
        lines = [sentence_case(opening.render(one.env))]
        about = third or (opening.source.startswith("Play") and self._rng.random() < 0.4)
        words = len(lines[0].split())
        for fact in facts:
            wordings = fact.third if about and fact.third else () if third else fact.statements
            line = self._state(one, fact, wordings) if wordings and words < max_words - 20 else None
            if line:
                lines.append(line)
                words += len(line.split())
        if third:
            end = choose(self._rng, self._third_end, one.env)
            lines.append(end.render(one.env) if end else "")
        one.system = (" " if self._rng.random() < 0.93 else "\n").join(line for line in lines if line)

    def _portrait(self, one: Character, max_words: int) -> None:
        """Adds sentences of hand-written cards, of which nobody asks: a prompt as `prompt.persona_prompt` writes it."""
        rng = self._rng
        lines = one.system.split(". ")
        for detail in rng.sample(self.background["details"], rng.randint(0, 3)):
            lines.insert(rng.randint(1, len(lines)), detail.removesuffix("."))
        one.system = ". ".join(line.removesuffix(".") for line in lines) + "."
        for key, chance in (("traits", 0.6), ("speech", 0.6), ("meetings", 0.5)):
            line = rng.choice(self.background[key])
            if rng.random() < chance and len(one.system.split()) + len(line.split()) < max(
                max_words, MAX_PORTRAIT_WORDS
            ):
                one.system += f" {line}"

    def _card(self, one: Character, full: dict[str, str], facts: list[Fact], max_words: int) -> None:
        rng = self._rng
        card = self._names.choice(self._cards)
        keep = [card[0]] + [line for line in card[1:] if rng.random() < 0.75]
        one.env = {slot: full[slot] for line in keep for slot in line.needs}
        one.env["name"], one.env["first"] = full["name"], full["first"]
        lines = [line.render(one.env) for line in keep]
        mark = "- " if lines[0].startswith("- ") else ""
        for fact in facts:
            line = self._state(one, fact, fact.fields) if fact.fields else None
            if line and sum(len(text.split()) for text in lines) < max_words - 20:
                lines.append(mark + line)
            elif line:
                one.stated.pop()
        head, rest = lines[0], lines[1:]
        if rng.random() < 0.3:
            rng.shuffle(rest)
        join = "\n" if mark else rng.choice(self._joins)
        one.system = join.join([head, *rest]) + ("" if "\n" in join else ".")

    def _tail(self, one: Character, extra: str) -> str:
        rng = self._rng
        lines: list[str] = []
        if one.style is not None:
            template = choose(rng, one.style.system, one.env)
            if template:
                line = template.render(one.env)
                lines.append(line if line[-1] in ".!?" else f"{line}.")
        if rng.random() < 0.15:
            lines.append(self._names.choice(self._scenarios).source)
        if rng.random() < 0.35:
            lines.append(self._names.choice(self._rules).source)
        if extra:
            lines.append(extra)
        if rng.random() < 0.3:
            rng.shuffle(lines)
        return " ".join(lines)

    def unstated(self, one: Character) -> Fact | None:
        """Draws a fact that the prompt neither states nor comes close to."""
        if one.is_real:
            return None
        barred = set(self._never_unstated)
        if "place" in one.env:
            barred |= self.place_facts
        for stated in one.stated:
            barred |= self._rivals.get(stated.fact.id, frozenset()) | {stated.fact.id}
        for _ in range(4):
            fact = self._names.choice(self.facts)
            if fact.id not in barred:
                return fact
        return None


def _background(path: Path) -> tuple[dict[str, list[str]], list[dict[str, str]]]:
    texts = read_object(path)
    keys = ("details", "traits", "speech", "meetings", "passages")
    return {key: strings(texts, key, path.name) for key in keys}, cast(list[dict[str, str]], texts["cards"])


def _identity(entry: Entry) -> Ask:
    where = f"prompts.json:identity:{entry.get('id')}"
    slot = str(entry["slot"])
    answers = parse(strings(entry, "answers", where), COMMON, where)
    return Ask(
        slot,
        need(parse(strings(entry, "questions", where), COMMON, where), where, "questions"),
        need(tuple(one for one in answers if slot in one.needs), where, "answers"),
    )


def _related(groups: list[list[str]]) -> dict[str, frozenset[str]]:
    out: dict[str, frozenset[str]] = {}
    for group in groups:
        for fact in group:
            out[fact] = out.get(fact, frozenset()) | frozenset(group)
    return out
