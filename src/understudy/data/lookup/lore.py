"""Passages about random subjects."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from .content import Ask, Fact, Group, Slots, load_groups
from .text import Env, choose, sentence_case

__all__ = ["LoreKit", "Topic", "slot_value"]


@dataclass(slots=True)
class Topic:
    """A subject with its facts as the passages state them.

    Attributes:
        group: what kind of subject it is.
        subject: its name in the text.
        stated: facts with their values.
        left: (fact values, question) pairs not asked yet.
    """

    group: Group
    subject: str
    stated: list[tuple[Fact, dict[str, str]]]
    left: list[tuple[dict[str, str], Ask]]


class LoreKit:
    """Makes passages from facts_lore.json."""

    def __init__(self, folder: Path, slots: Slots, rng: random.Random) -> None:
        """Compiles the facts.

        Args:
            folder: where the content files lie.
            slots: makers of slot values.
            rng: the source of chance.
        """
        self._rng = rng
        self.groups = load_groups(folder / "facts_lore.json", slots)

    def topics(self, count: int) -> list[Topic]:
        """Draws subjects; often two of one kind, so that the subject's name decides."""
        rng = self._rng
        out: list[Topic] = []
        for _ in range(count):
            if out and rng.random() < 0.45:
                group = rng.choice(out).group
            else:
                group = self.groups[int(rng.random() * len(self.groups))]
            topic = self._topic(group, {one.subject.lower() for one in out}, _taken(out))
            if topic is not None:
                out.append(topic)
        return out

    def _topic(self, group: Group, subjects: set[str], taken: set[str]) -> Topic | None:
        rng = self._rng
        subject = group.subject()
        if any(subject.lower() in other or other in subject.lower() for other in subjects):
            return None
        count = rng.randint(min(2, len(group.facts)), min(5, len(group.facts)))
        topic = Topic(group, subject, [], [])
        for fact in rng.sample(group.facts, count):
            values = fact.values()
            if any(value in taken for value in values.values()):
                values = fact.values()
            taken.update(values.values())
            env = {"subject": subject, **values}
            topic.stated.append((fact, env))
            topic.left.extend((env, ask) for ask in fact.asks)
        return topic

    def passage(self, topic: Topic) -> str:
        """Writes the passage about a subject."""
        rng = self._rng
        lines: list[str] = []
        for fact, env in topic.stated:
            slots = [slot for slot, _ in fact.slots]
            short = bool(lines and fact.short) and rng.random() < 0.6
            wording = choose(rng, fact.short if short else fact.statements, env, must=slots)
            if wording is None or (not lines and "subject" not in wording.needs):
                wording = choose(rng, fact.statements, env, must=["subject", *slots])
            wording = wording or fact.statements[0]
            lines.append(sentence_case(wording.render(env)))
        return " ".join(lines)

    def passages(self, topics: list[Topic]) -> list[str]:
        """Writes all passages in random order; now and then two share one."""
        rng = self._rng
        texts = [self.passage(topic) for topic in topics]
        rng.shuffle(texts)
        if len(texts) > 2 and rng.random() < 0.2:
            texts[:2] = [f"{texts[0]} {texts[1]}"]
        return texts

    def stranger(self, group: Group, topics: list[Topic]) -> str | None:
        """Names a subject of a kind that no passage is about."""
        subject = group.subject()
        low = subject.lower()
        if any(low in one.subject.lower() or one.subject.lower() in low for one in topics):
            return None
        return subject

    def missing(self, topic: Topic) -> Fact | None:
        """Draws a fact about the subject that its passage does not state."""
        stated = {fact.id for fact, _ in topic.stated}
        rest = [fact for fact in topic.group.facts if fact.id not in stated]
        return self._rng.choice(rest) if rest else None


def _taken(topics: list[Topic]) -> set[str]:
    return {value for topic in topics for _, env in topic.stated for value in env.values()}


def slot_value(env: Env, ask: Ask) -> str:
    """Returns the value that a right answer has to contain."""
    return env[ask.slot]
