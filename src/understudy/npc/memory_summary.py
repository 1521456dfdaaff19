"""A bounded summary of what was said long ago, in the speakers' own sentences; or in a model's words."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from understudy.npc.memory_facts import extract_facts, has_markup
from understudy.prompt import Message
from understudy.retrieval.query import query_words

__all__ = ["Writer", "summarise", "transcript"]

Writer = Callable[[str, int], str]

_SENTENCE = re.compile(r"[^.!?\n\u2026]+[.!?\u2026]*[\"'\u201d\u2019)]*")
_MAX_SENTENCE = 300
_MIN_WORDS = 2
_FACT_BONUS = 3.0  # as good as three rare words
_NUMBER_BONUS = 1.0
_MAX_CANDIDATES = 400
_MAX_MISFITS = 20
_KNOWN_SHARE = 0.3  # what a word counts once the summary has it


@dataclasses.dataclass(frozen=True)
class _Sentence:
    order: int
    speaker: str
    text: str
    words: frozenset[str]
    bonus: float


def summarise(
    turns: Sequence[Message],
    *,
    player: str,
    character: str,
    max_tokens: int,
    count: Callable[[str], int],
    write: Writer | None = None,
) -> str:
    """Say in few words what was said.

    Without a writer, the sentences are taken whose words the talk turned on most, facts of the player and numbers
    first, each word counting little the second time; they stand in their order, between quotation marks. The same
    turns give the same summary.

    Args:
        turns: the older part of a conversation; leave out what shall leave no trace.
        player: name of the user's role in it.
        character: name of the assistant's.
        max_tokens: bound of the summary.
        count: tokens of a text.
        write: makes a summary of a transcript within a number of tokens, e.g. by asking a model; its words are cut
            at the bound, and the sentences above stand in where it gives none.

    Returns:
        The summary; empty where nothing fits.
    """
    if write is not None:
        written = " ".join(write(transcript(turns, player=player, character=character), max_tokens).split())
        kept = _cut(written, max_tokens, count)
        if kept:
            return kept
    sentences = list({(one.speaker, one.text): one for one in _sentences(turns, player, character)}.values())
    weights = _weights(sentences)
    left = sorted(sentences, key=lambda one: (-_worth(one, weights, set()), -one.order))[:_MAX_CANDIDATES]
    chosen: list[_Sentence] = []
    known: set[str] = set()
    num_misfits = 0
    while left and num_misfits < _MAX_MISFITS:
        best = max(left, key=lambda one: (_worth(one, weights, known), one.order))
        left.remove(best)
        if count(_told([*chosen, best])) > max_tokens:
            num_misfits += 1
            continue
        chosen.append(best)
        known |= best.words
    return _told(chosen)


def transcript(turns: Sequence[Message], *, player: str, character: str) -> str:
    """The turns as lines "name: words", for a writer."""
    names = {"user": player, "assistant": character}
    return "\n".join(
        f"{names[turn.role]}: {' '.join(turn.content.split())}"
        for turn in turns
        if turn.role in names and turn.content.strip()
    )


def _sentences(turns: Sequence[Message], player: str, character: str) -> Iterator[_Sentence]:
    names = {"user": player, "assistant": character}
    order = 0
    for turn in turns:
        if turn.role not in names:
            continue
        facts = {text for _, text in extract_facts(turn.content)} if turn.role == "user" else set()
        for match in _SENTENCE.finditer(turn.content):
            text = " ".join(match[0].split()).replace('"', "'")
            words = frozenset(query_words(text))
            if len(words) < _MIN_WORDS or len(text) > _MAX_SENTENCE or has_markup(text):
                continue
            bonus = _FACT_BONUS * (text in facts) + _NUMBER_BONUS * any(c.isdigit() for c in text)
            yield _Sentence(order, names[turn.role], text, words, bonus)
            order += 1


def _weights(sentences: Sequence[_Sentence]) -> Mapping[str, float]:
    num_with: dict[str, int] = {}
    for sentence in sentences:
        for word in sentence.words:
            num_with[word] = num_with.get(word, 0) + 1
    return {word: math.log1p(n) for word, n in num_with.items()}


def _worth(sentence: _Sentence, weights: Mapping[str, float], known: set[str]) -> float:
    """Weight of the words, by the root of their number, so that long sentences do not always win."""
    total = sum(weights[word] * (_KNOWN_SHARE if word in known else 1) for word in sorted(sentence.words))
    return (total + sentence.bonus) / math.sqrt(len(sentence.words) + 3)


def _told(sentences: Sequence[_Sentence]) -> str:
    lines: list[tuple[str, str]] = []
    for sentence in sorted(sentences, key=lambda one: one.order):
        if lines and lines[-1][0] == sentence.speaker:
            lines[-1] = (sentence.speaker, f"{lines[-1][1]} {sentence.text}")
        else:
            lines.append((sentence.speaker, sentence.text))
    return " ".join(f'{speaker} said: "{text}"' for speaker, text in lines)


def _cut(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """As many whole sentences from the front as fit."""
    kept = ""
    for match in _SENTENCE.finditer(text):
        longer = f"{kept} {match[0].strip()}".strip()
        if count(longer) > max_tokens:
            break
        kept = longer
    return kept
