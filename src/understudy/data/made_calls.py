"""Generated dialogues with functions: the look-up generator's, under shuffled names, some with a question back."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from understudy.data.lookup.generate import LookupGenerator
from understudy.data.lookup.numbers import number_words
from understudy.data.tool_shuffle import ToolShuffler

__all__ = ["ask_back", "made_calls"]

Dialogue = dict[str, Any]

_MOST = 1000
_ASK_SHARE = 0.6  # of the dialogues in which something can be left out
_PERSONS = re.compile(r"to|recipient|receiver|guest|who|person|name")
_PLACES = re.compile(r"destination|town|place|target|port|room|location")


def made_calls(*, seed: int, count: int) -> Iterator[Dialogue]:
    """Dialogues around generated calls; the same seed gives the same.

    Args:
        seed: decides all of them.
        count: how many.
    """
    rng = random.Random(seed)
    generator = LookupGenerator(seed, mix={"tool": 1.0})
    records = [cast(Dialogue, generator.dialogue()) for _ in range(count)]
    shuffler = ToolShuffler(rng, (tool for record in records for tool in record["tools"]))
    for record in records:
        asked = ask_back(record, rng) if rng.random() < _ASK_SHARE else None
        yield shuffler.shuffled(asked or record)


def ask_back(record: Dialogue, rng: random.Random) -> Dialogue | None:
    """The dialogue with something left out of a request, so that the character has to ask for it before it calls.

    Left out is what can be cut out of the sentence and leaves one: a number before what is counted, "for three nights",
    "to Brookend". The arguments that the schema requires are asked for, others never.

    Returns:
        None where no request of the dialogue can be cut so.
    """
    turns: list[dict[str, Any]] = record["turns"]
    required = {
        tool["function"]["name"]: tool["function"]["parameters"].get("required", []) for tool in record["tools"]
    }
    for number, turn in enumerate(turns[1:], 1):
        calls: Sequence[Mapping[str, Any]] = turn.get("tool_calls") or ()
        if len(calls) != 1 or turns[number - 1]["role"] != "user":
            continue
        line = turns[number - 1]["content"]
        for key in required[calls[0]["name"]]:
            cut = _without(line, key, calls[0]["arguments"])
            if cut is not None:
                short, questions, value = cut
                reply = rng.choice((value, f"{value}, please", f"{value[:1].upper()}{value[1:]}.", f"make it {value}"))
                extra = [
                    {"role": "user", "content": short},
                    {"role": "assistant", "content": rng.choice(questions)},
                    {"role": "user", "content": reply},
                ]
                return {**record, "turns": [*turns[: number - 1], *extra, *turns[number:]]}
    return None


def _without(line: str, key: str, arguments: Mapping[str, Any]) -> tuple[str, Sequence[str], str] | None:
    """The line without an argument, questions for it, and the argument as it was said."""
    value = arguments.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and 1 < value < _MOST:
        spelled = f"{value}|{number_words(value)}"
        if match := re.search(rf" for ({spelled}) ([a-z]+s)\b", line, re.IGNORECASE):
            asks = (f"For how many {match[2]}?", f"How many {match[2]} shall it be?", f"Gladly. How many {match[2]}?")
            return line[: match.start()] + line[match.end() :], asks, f"{match[1]} {match[2]}"
        others = [str(one) for other, one in arguments.items() if other != key and isinstance(one, str)]
        for what in others:
            if match := re.search(rf"\b({spelled}) (?={re.escape(what)})", line, re.IGNORECASE):
                asks = ("How many?", f"How many {what}?", f"{what[:1].upper()}{what[1:]}, yes. How many of them?")
                return _tidy(line[: match.start()] + line[match.end() :]), asks, match[1]
    if isinstance(value, str) and (match := re.search(rf" to ({re.escape(value)})\b", line, re.IGNORECASE)):
        rest = _tidy(line[: match.start()] + line[match.end() :])
        if _PLACES.fullmatch(key):
            return rest, ("Where to?", "To what place?", "Where shall it go?"), match[1]
        if _PERSONS.fullmatch(key):
            return rest, ("To whom?", "Who is it for?", "Whom shall it reach?"), match[1]
    return None


def _tidy(line: str) -> str:
    return line[:1].upper() + line[1:] if line[:1].islower() and line.endswith((".", "?", "!")) else line
