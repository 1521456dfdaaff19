"""Pairs of answers from a model's own mistakes: it answers lines whose truth is known, and what is wrong is rejected.

Look-up dialogues know the value that a right answer holds; dialogues written by hand know only what was said, so any
answer far from that one counts as worse (self-play fine-tuning, arXiv 2401.01335).
"""

import dataclasses
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from understudy.data.dialogues import to_conversation
from understudy.data.lookup.generate import LookupGenerator
from understudy.engine import Generation, SamplingParams
from understudy.evaluation.text_match import token_f1
from understudy.npc.model import Model
from understudy.prompt import AnswerParser

__all__ = ["Line", "generated_lines", "make_pairs", "mixed_lines", "spoken_lines", "wrong_answers"]

_KINDS = {"persona": 0.32, "lore": 0.4, "mixed": 0.22, "recall": 0.06}
_UNKNOWN_SHARE = 0.08
_NEGATIONS = re.compile(r"\b(?:not?|never|none|nobody|nothing|nowhere|neither|unknown|cannot|\w+n't)\b", re.IGNORECASE)
_NEAR = 0.5  # token F1 from which an answer says much the same as the truth
_MAX_TOKENS = 64
_AHEAD = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """A place in a dialogue where the character has to answer.

    Attributes:
        record: the dialogue, its turns up to the player's line.
        truth: a right answer.
        value: what every right answer holds, "" where it admits not to know; None where only `truth` is known.
    """

    record: dict[str, Any]
    truth: str
    value: str | None = None


def generated_lines(seed: int) -> Iterator[Line]:
    """Lines of look-up dialogues without end, some of which nobody can answer."""
    generator, rng = LookupGenerator(seed), random.Random(seed)
    while True:
        kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        if rng.random() < _UNKNOWN_SHARE:
            dialogue, values = generator.annotated(kind)
            turns: Any = dialogue["turns"]
            spots = [n for n, turn in enumerate(turns) if turn["role"] == "assistant"]
            unknown = [spot for spot, value in zip(spots, values, strict=True) if value == ""]
            if unknown:
                spot = rng.choice(unknown)
                yield Line(record={**dialogue, "turns": turns[:spot]}, truth=turns[spot]["content"], value="")
            continue
        dialogue, value = generator.probe(kind)
        turns = dialogue["turns"]
        yield Line(record={**dialogue, "turns": turns[:-1]}, truth=turns[-1]["content"], value=value)


def spoken_lines(records: Iterable[dict[str, Any]], rng: random.Random) -> Iterator[Line]:
    """One line of each dialogue in which the character answers the player in words, functions not at hand."""
    for record in records:
        turns = record["turns"]
        spots = [
            n
            for n, turn in enumerate(turns)
            if n and turn["role"] == "assistant" and turn.get("content") and not turn.get("tool_calls")
        ]
        spots = [n for n in spots if turns[n - 1]["role"] == "user"]
        if spots and not record["tools"]:
            spot = rng.choice(spots)
            yield Line(record={**record, "turns": turns[:spot]}, truth=turns[spot]["content"])


def mixed_lines(records: Sequence[dict[str, Any]], *, seed: int, written_share: float) -> Iterator[Line]:
    """Lines of generated dialogues and of written ones, without end.

    Args:
        records: dialogues written by hand, in any number; they come again when all were asked.
        seed: of the dialogues and their order.
        written_share: of the lines, from `records`.
    """
    rng, generated = random.Random(seed), generated_lines(seed)
    written = _again(records, rng)
    while True:
        line = next(written, None) if rng.random() < written_share else None
        yield line or next(generated)


def _again(records: Sequence[dict[str, Any]], rng: random.Random) -> Iterator[Line]:
    """The records' lines over and over, each time in another order."""
    while lines := list(spoken_lines(rng.sample(records, len(records)), rng)):
        yield from lines


def wrong_answers(line: Line, answers: Sequence[str]) -> list[str]:
    """Those of a model's answers that are worse than the truth, each once, in a fixed order."""
    if line.value is None:
        wrong = {a for a in answers if token_f1(a, [line.truth]) < _NEAR}
    elif line.value:
        wrong = {a for a in answers if line.value.casefold() not in a.casefold()}
    else:
        wrong = {a for a in answers if not _NEGATIONS.search(a)}
    return sorted(wrong - {"", line.truth})


def make_pairs(
    model: Model, lines: Iterable[Line], *, rng: random.Random, samples: int = 5, max_prompt_tokens: int = 420
) -> Iterator[dict[str, Any] | None]:
    """Let the model answer, and pair a wrong answer with a right one.

    The right one is the truth, or as often a right answer of the model's own, so that what is learnt is the value and
    not the style.

    Args:
        model: who answers.
        lines: what is asked; lines with longer prompts are passed over.
        rng: of the draws.
        samples: answers to a line; the first one is drawn close to the model's best, the others at temperature 0.7.
        max_prompt_tokens: longest prompt.

    Yields:
        A record for `data.preferences` for each line that was asked; None where all answers were right.
    """
    asked = (line for line in lines if len(model.encode(to_conversation(line.record))) <= max_prompt_tokens)
    waiting: list[tuple[Line, list[Generation]]] = []
    for line in asked:
        talk = to_conversation(line.record)
        draws = [
            SamplingParams(temperature=0.7 if number else 0.2, seed=rng.randrange(1 << 31)) for number in range(samples)
        ]
        waiting.append((line, [model.generate(talk, sampling=draw, max_tokens=_MAX_TOKENS) for draw in draws]))
        if len(waiting) > _AHEAD:
            yield _pair(*waiting.pop(0), rng)
    for line, generations in waiting:
        yield _pair(line, generations, rng)


def _pair(line: Line, generations: Sequence[Generation], rng: random.Random) -> dict[str, Any] | None:
    answers = [text for text in map(_text, generations) if text]
    wrong = wrong_answers(line, answers)
    if not wrong:
        return None
    right = [answer for answer in answers if answer not in wrong] if line.value else []
    chosen = rng.choice(right) if right and rng.random() < 0.5 else line.truth
    shared = {key: line.record[key] for key in ("system", "context", "tools", "turns")}
    return {**shared, "chosen": chosen, "rejected": rng.choice(wrong)}


def _text(generation: Generation) -> str:
    """The answer; nothing where it did not come to its end."""
    parser, reason = AnswerParser(), None
    text = ""
    for chunk in generation:
        text += parser.push(chunk.text)
        reason = chunk.finish_reason
    return (text + parser.finish()).strip() if reason == "stop" else ""
