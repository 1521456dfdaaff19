"""Plain copying and look-up in lists: the quickest teachers of reading from the prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from .content import (
    Ask,
    Entry,
    Maker,
    Slots,
    Templates,
    local_lists,
    need,
    parse,
    read_object,
    slot_names,
    strings,
)
from .text import Template, choose, player_line, sentence_case

__all__ = ["Drill", "DrillKit", "Ledger"]

_PAIR = ("k", "v")
_SEPARATORS = ("; ", "; ", ". ", ", ", "\n", "\n", " / ", " | ")
_LETTERS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"


@dataclass(frozen=True, slots=True)
class Ledger:
    """One kind of list with its wordings."""

    id: str
    key: Maker
    value: Maker
    heads: tuple[str, ...]
    lines: Templates
    forward: Ask
    backward: Ask


@dataclass(slots=True)
class Drill:
    """A finished drill: prompt parts, turns and the values of the answers."""

    system: str
    context: list[str]
    turns: list[dict[str, object]]
    answers: list[str | None]


class DrillKit:
    """Makes drills from drills.json."""

    def __init__(self, folder: Path, slots: Slots, rng: random.Random) -> None:
        """Compiles the wordings.

        Args:
            folder: where drills.json lies.
            slots: makers of slot values.
            rng: the source of chance.
        """
        self._rng = rng
        self._names = slots.names
        entry = read_object(folder / "drills.json")
        where = "drills.json"
        who = ("name", "role", "place")
        self._role = slots.maker("role", {}, where)
        self._copy_systems = parse(strings(entry, "copy_systems", where), who, where)
        self._ask_systems = parse(strings(entry, "ask_systems", where), who, where)
        self._ask_copy = parse(strings(entry, "ask_copy", where), ("p",), where)
        self._systems = parse(strings(entry, "systems", where), who, where)
        self._missing = strings(entry, "missing", where)
        phrases = strings(entry, "phrases", where)
        marks = {mark for text in phrases for mark in slot_names(text)}
        bases = {mark.removeprefix("a_") for mark in marks}
        self._phrases = parse(phrases, bases, where)
        self._makers: dict[str, Maker] = {
            base: self._word if base.startswith("word") else slots.maker(base.rstrip("0123456789"), {}, where)
            for base in bases
        }
        self.ledgers = tuple(_ledger(cast(Entry, one), slots) for one in cast(list[object], entry["kinds"]))

    def _word(self) -> str:
        """A meaningless word."""
        pick = self._rng.choice
        parts = self._rng.randint(1, 3)
        text = "".join(pick(_LETTERS) + pick(_VOWELS) for _ in range(parts))
        return text + (pick(_LETTERS) if self._rng.random() < 0.5 else "")

    def _system(self, templates: Templates) -> str:
        name, _ = self._names.parts()
        env = {"name": name, "role": self._role(), "place": self._names.place()}
        return self._names.choice(templates).render(env)

    def _phrase(self) -> str:
        template = self._names.choice(self._phrases)
        text = template.render({slot: self._makers[slot]() for slot in sorted(template.needs)})
        dice = self._rng.random()
        if dice < 0.15:
            return text[:1].upper() + text[1:] + self._rng.choice((".", "!", "?"))
        return text.lower() if dice < 0.25 else text

    def copy(self) -> Drill:
        """The player says something and the character repeats it."""
        rng = self._rng
        asked = rng.random() < 0.35
        drill = Drill(self._system(self._ask_systems if asked else self._copy_systems), [], [], [])
        for _ in range(rng.randint(1, 4)):
            phrase = self._phrase()
            line = phrase
            if asked:
                line = self._names.choice(self._ask_copy).render({"p": phrase})
            drill.turns.append({"role": "user", "content": line})
            drill.turns.append({"role": "assistant", "content": phrase})
            drill.answers.append(phrase)
        return drill

    def ledger(self) -> Drill:
        """The player asks for entries of a list, from either side."""
        rng = self._rng
        kind = self._names.choice(self.ledgers)
        count = rng.randint(2, 8)
        pairs = self._pairs(kind, count + 1)
        absent = pairs.pop() if len(pairs) > 2 else None
        drill = Drill(self._system(self._systems), [], [], [])
        text = self._written(kind, pairs)
        if rng.random() < 0.5:
            drill.context.append(text)
        else:
            drill.system += ("\n" if "\n" in text else " ") + text
        sides = [(pair, ask) for pair in pairs for ask in (kind.forward, kind.backward)]
        rng.shuffle(sides)
        for (key, value), ask in sides[: rng.randint(2, 6)]:
            if absent is not None and rng.random() < 0.1:
                self._turn(drill, kind.forward, {"k": absent[0]}, False)
                absent = None
            else:
                self._turn(drill, ask, {"k": key, "v": value}, True)
        return drill

    def _pairs(self, kind: Ledger, count: int) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        seen: set[str] = set()
        for _ in range(count * 3):
            key, value = kind.key(), kind.value()
            if len(pairs) < count and not {key.lower(), value.lower()} & seen and key != value:
                pairs.append((key, value))
                seen |= {key.lower(), value.lower()}
        return pairs

    def _written(self, kind: Ledger, pairs: list[tuple[str, str]]) -> str:
        rng = self._rng
        line, join = rng.choice(kind.lines), rng.choice(_SEPARATORS)
        parts = [line.render({"k": key, "v": value}) for key, value in pairs]
        head = rng.choice(kind.heads)
        if join == "\n":
            mark = rng.choice(("", "- ", "* "))
            return "\n".join(([head] if head else []) + [mark + part for part in parts])
        end = "" if join in (" / ", " | ") else "."
        return sentence_case(f"{head} {join.join(parts)}{end}")

    def _turn(self, drill: Drill, ask: Ask, env: dict[str, str], known: bool) -> None:
        rng = self._rng
        question = choose(rng, ask.questions, env)
        answer = choose(rng, ask.answers, env) if known else None
        if question is None or (known and answer is None):
            return
        line = player_line(rng, question, env, list(env.values()))
        text = answer.render(env) if answer else rng.choice(self._missing)
        drill.turns.append({"role": "user", "content": line})
        drill.turns.append({"role": "assistant", "content": sentence_case(text)})
        drill.answers.append(env[ask.slot] if known else "")


def _ledger(entry: Entry, slots: Slots) -> Ledger:
    where = f"drills.json:{entry.get('id')}"
    lists = local_lists(entry, where)

    def side(way: str, slot: str, given: str) -> Ask:
        questions = parse(strings(entry, way, where), _PAIR, where)
        answers = parse(strings(entry, f"{way}_answers", where), _PAIR, where)
        asked = tuple(one for one in questions if given in one.needs and slot not in one.needs)
        full = tuple(one for one in answers if slot in one.needs)
        return Ask(slot, need(asked, where, way), need(full, where, f"{way}_answers"))

    def lines() -> tuple[Template, ...]:
        return need(parse(strings(entry, "entries", where), _PAIR, where), where, "entries")

    return Ledger(
        id=str(entry["id"]),
        key=slots.maker(str(entry["k"]), lists, where),
        value=slots.maker(str(entry["v"]), lists, where),
        heads=tuple(strings(entry, "heads", where)),
        lines=lines(),
        forward=side("forward", "v", "k"),
        backward=side("backward", "k", "v"),
    )
