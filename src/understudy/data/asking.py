"""Requests with something left out: the character asks for it, hears it, and calls."""

import dataclasses
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from understudy.data.lookup.numbers import number_words
from understudy.data.tool_corpora import is_grounded
from understudy.prompt.template import tool_function

__all__ = ["ask_back"]

Dialogue = dict[str, Any]

_MOST = 1000
_TWICE_SHARE = 0.2  # of the requests that miss two things where they can
_ECHO_SHARE = 0.3  # of the questions that repeat first what was understood
_MOST_OPTIONS = 4  # of a choice that a question reads out
_PERSON = re.compile(r"to|recipient|receiver|guest|who|person|name|racer|fighter|holder|patient|suspect|visitor|worker")
_PLACE = re.compile(r"destination|town|place|target|port|room|location|where|into|field|area")
_TIME = re.compile(r"when|time|day|hour|date")
_THING = re.compile(r"item|goods|what|dish|drink|food|kind|crop|potion|liquid|animal|object|thing|product|map|metal")
_BEFORE = r"(?<=[a-z\d,]) (?P<how>to|in|on|from|with|about|by|at|into|onto|for|as) "
_ARTICLE = r"(?:the |a |an |some |my |our |this |that |these )?"
_AFTER = r"(?= *[,.;!?]| please| pls|$)"
_GOES_ON = r"(?= *[,.;!?]| (?:please|pls|and|for|to|in|on|at|from|with|by|over|out)\b|$)"
_BOUND = re.compile(r"\b(?:take|tke|taking|count|looking|put|here|came|come|your|his|her|their|no|\d+)$", re.IGNORECASE)
_ALL_NUMBERS = frozenset(number_words(n).lower() for n in range(_MOST))
_INTRO = r"(?:^|[,.;!?] *| and )(?:my name(?:'s| is)|name(?: is)?|i'm|i am|im|this is) "


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A line without an argument, questions for it, and the argument as it was said."""

    line: str
    questions: Sequence[str]
    said: str


def ask_back(record: Dialogue, rng: random.Random) -> Dialogue | None:
    """The dialogue with something left out of a request, so that the character has to ask for it before it calls.

    Left out is what can be cut out of the sentence and leaves one: a number before what is counted, "for three nights",
    "to Brookend", "with the spear", a name that is told; a thing becomes "something". The arguments that the schema
    requires are asked for, others never. Now and then two are missing and asked for together.

    Returns:
        None where no request of the dialogue can be cut so.
    """
    turns: list[dict[str, Any]] = record["turns"]
    schemas = {tool_function(tool)["name"]: tool_function(tool).get("parameters") or {} for tool in record["tools"]}
    known_words = _words(record)
    found: list[tuple[int, Mapping[str, Any], str, _Cut]] = []
    for number, turn in enumerate(turns[1:], 1):
        calls: Sequence[Mapping[str, Any]] = turn.get("tool_calls") or ()
        if len(calls) == 1 and turns[number - 1]["role"] == "user":
            cuts = _cuts(turns[number - 1]["content"], calls[0]["arguments"], schemas[calls[0]["name"]], known_words)
            found += [(number, calls[0], key, cut) for key, cut in cuts]
    if not found:
        return None
    number, call, key, cut = rng.choice(found)
    left = {other: value for other, value in call["arguments"].items() if other != key}
    question, said = rng.choice(cut.questions), cut.said
    more = list(_cuts(cut.line, left, schemas[call["name"]], known_words)) if rng.random() < _TWICE_SHARE else []
    if more:
        other, second = rng.choice(more)
        also = rng.choice(second.questions).removeprefix("And ").removeprefix("Gladly. ")
        question, said = f"{question} And {also[:1].lower()}{also[1:]}", f"{said}, {second.said}"
        cut, left = second, {name: value for name, value in left.items() if name != other}
    known = [value for value in left.values() if isinstance(value, str) and value.lower() in cut.line.lower()]
    known = [value for value in known if value.lower() not in question.lower()]
    if known and rng.random() < _ECHO_SHARE:
        question = f"{_capital(rng.choice(known))}. {question}"
    reply = rng.choice((said, f"{said}, please", f"{_capital(said)}.", f"make it {said}"))
    extra = [
        {"role": "user", "content": cut.line},
        {"role": "assistant", "content": question},
        {"role": "user", "content": reply},
    ]
    return {**record, "turns": [*turns[: number - 1], *extra, *turns[number:]]}


def _words(record: Dialogue) -> frozenset[str]:
    """Words that are spelled rightly: those of the functions and of the character."""
    told = [turn.get("content") or "" for turn in record["turns"] if turn["role"] != "user"]
    return frozenset(re.findall(r"[a-z]+", f"{record['system']} {record['tools']} {told}".lower()))


def _cuts(
    line: str, arguments: Mapping[str, Any], schema: Mapping[str, Any], known_words: frozenset[str]
) -> Iterator[tuple[str, _Cut]]:
    """Arguments that can be left out of a line, and how: what is left no longer tells it, and tells all the others."""
    for key in schema.get("required", ()):
        value = arguments.get(key)
        others = {name: other for name, other in arguments.items() if name != key}
        if isinstance(value, int) and not isinstance(value, bool) and 1 < value < _MOST:
            named = [one for one in others.values() if isinstance(one, str)]
            cut = _without_number(line, value, named, known_words)
        elif isinstance(value, str):
            cut = _without_words(line, key, value, schema.get("properties", {}).get(key, {}).get("enum", ()))
        else:
            continue
        if cut is None or not re.search(r"\w", cut.line):
            continue
        before, after = line.lower(), cut.line.lower()
        if is_grounded(value, after) or any(
            is_grounded(o, before) and not is_grounded(o, after) for o in others.values()
        ):
            continue
        yield key, cut


def _without_number(line: str, value: int, others: Sequence[str], known_words: frozenset[str]) -> _Cut | None:
    spelled = f"{value}|{number_words(value)}"
    patterns = (
        rf" (?P<how>for|with) (?P<number>{spelled}) (?P<unit>[a-z]+s)\b",
        rf"[,:.] (?P<number>{spelled}) (?P<unit>[a-z]+s)\b{_AFTER}",
        rf" (?P<number>{spelled}) (?P<unit>times)\b",
        *(rf"\b(?P<number>{spelled}) (?:(?P<unit>[a-z]+s) (?:of )?(?:the )?)?(?={re.escape(one)})" for one in others),
    )
    for pattern in patterns:
        if match := re.search(pattern, line, re.IGNORECASE):
            unit = match["unit"]
            asks: tuple[str, ...] = ("How many?", "How many shall it be?")
            if unit and unit in known_words:
                asks = f"How many {unit}?", f"How many {unit} shall it be?", f"Gladly. How many {unit}?"
                asks = (*asks, f"For how many {unit}?") if match.groupdict().get("how") == "for" else asks
            is_unit_left = pattern not in patterns[:3]  # the thing itself is counted, and stays
            return _Cut(_left(line, match), asks, match["number"] if is_unit_left else f"{match['number']} {unit}")
    return None


def _without_words(line: str, key: str, value: str, options: Sequence[Any]) -> _Cut | None:
    is_named = value[:1].isupper()
    if is_named and (match := re.search(rf"{_INTRO}(?P<said>{re.escape(value)})\b{_AFTER}", line, re.IGNORECASE)):
        return _Cut(_left(line, match), ("And your name?", "Under what name?", "Who shall I say it is?"), match["said"])
    article = "" if is_named else _ARTICLE
    place = rf"{_BEFORE}(?:the )?(?P<said>{article}{re.escape(value)})\b{_GOES_ON}"
    if (match := re.search(place, line, re.IGNORECASE)) and not _BOUND.search(line[: match.start()]):
        asks = _options(options) or _questions(key, match["how"].lower())
        return _Cut(_left(line, match), asks, match["said"]) if asks else None
    thing = rf"(?P<before>\b[a-z]+) (?P<said>{_ARTICLE}{re.escape(value)})\b{_AFTER}"
    if not is_named and _THING.fullmatch(key) and (match := re.search(thing, line, re.IGNORECASE)):
        before = match["before"]
        is_name = before[:1].isupper() and match.start() > 0
        if is_name or _BOUND.search(before) or _is_counted(f"{line[: match.start()]}{before}"):
            return None
        asks = ("What shall it be?", "Something? What?", "What, exactly?")
        asks = _options(options) or (asks if key == "what" else (*asks, f"Which {key}?", f"What {key}?"))
        return _Cut(f"{line[: match.start()]}{before} something{line[match.end() :]}", asks, match["said"])
    return None


def _is_counted(text: str) -> bool:
    """Whether a number, perhaps with a unit, comes next to last: "four", "four litres"."""
    return any(word.isdigit() or word.lower() in _ALL_NUMBERS for word in text.split()[-2:]) and not text.endswith(
        " of"
    )


def _questions(key: str, how: str) -> Sequence[str]:
    """Questions for what stood behind a preposition; none where it may have been something else."""
    if how == "to":
        if _PLACE.fullmatch(key):
            return "Where to?", "To what place?", "Where shall it go?"
        return ("To whom?", "Who is it for?", "Whom shall it reach?") if _PERSON.fullmatch(key) else ()
    if key == "name":
        return "What name?", "Under what name?", "Which name?"
    if _PERSON.fullmatch(key):
        asks = f"{how.capitalize()} whom?", f"Tell me {how} whom.", "And whose name do I write?"
        return asks if how in ("for", "from", "with", "about") else ()
    if _PLACE.fullmatch(key):
        return "Where?", "Where exactly?", "In what place?"
    if _TIME.fullmatch(key):
        return "When?", "When shall it be?", "When do you want it?"
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", key).replace("_", " ").lower()
    noun = "" if words in ("from", "on", "about", "with", "for", "by", "what") else f" {words}"
    return f"{how.capitalize()} what{noun}?", f"{how.capitalize()} what{noun}, please?", f"Which{noun or ' one'}?"


def _options(options: Sequence[Any]) -> Sequence[str]:
    """Questions that read out a choice, if there is a short one."""
    names = [str(one).replace("_", " ") for one in options]
    if not 2 <= len(names) <= _MOST_OPTIONS:
        return ()
    told = f"{', '.join(names[:-1])} or {names[-1]}?"
    return _capital(told), f"Which shall it be, {told}", f"You can have {told}"


def _left(line: str, match: re.Match[str]) -> str:
    rest = re.sub(r"^[ ,.;:]+|[ ,;:]+$", "", line[: match.start()] + line[match.end() :])
    rest = re.sub(r", *(?=,)", "", rest)
    return _capital(rest) if line[:1].isupper() or rest.endswith((".", "?", "!")) else rest


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
