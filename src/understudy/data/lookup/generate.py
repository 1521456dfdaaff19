"""The generator of look-up dialogues."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from .content import Slots, entries, local_lists
from .drills import Drill, DrillKit
from .scene import Content, Scene, Turn
from .validate import validate

__all__ = ["DEFAULT_MIX", "Dialogue", "LookupGenerator", "content_hash"]

Dialogue = dict[str, object]

DEFAULT_MIX: Mapping[str, float] = {
    "persona": 0.25,
    "lore": 0.26,
    "chat": 0.15,
    "recall": 0.08,
    "tool": 0.09,
    "mixed": 0.12,
    "copy": 0.01,
    "ledger": 0.04,
}
_REAL_SHARE = 0.3  # of characters: a hand-written card
_JOINED_SHARE = 0.2  # of dialogues: one line asks two things at once
_OF_KIND = {"tool": "tool", "lore": "rag", "mixed": "rag"}
_LISTED = ("facts_persona.json", "facts_lore.json", "recall.json", "tools.json", "smalltalk.json")


def _join_lines(scene: Scene, rng: random.Random) -> None:
    """Makes one exchange of two neighbouring ones: "Good evening. Who are you, and what does a bed cost?"."""
    number = 0 if rng.random() < 0.4 else rng.randrange(len(scene.answers))
    first, second = scene.turns[2 * number : 2 * number + 2], scene.turns[2 * number + 2 : 2 * number + 4]
    if len(second) < 2:
        return
    question, more = str(first[0]["content"]), str(second[0]["content"])
    if question.endswith("?") and rng.random() < 0.5:
        question, more = question[:-1] + ", and", more[:1].lower() + more[1:] if not more.startswith("I") else more
    elif question[-1:].isalnum():
        question += rng.choice((".", " and", ","))
    scene.turns[2 * number : 2 * number + 4] = [
        {"role": "user", "content": f"{question} {more}"},
        {"role": "assistant", "content": f"{first[1]['content']} {second[1]['content']}"},
    ]
    values = scene.answers[number : number + 2]
    scene.answers[number : number + 2] = [next((value for value in values if value), None)]


def content_hash() -> str:
    """A hash of the content files: with the seed and the mix it decides every dialogue."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.json")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class LookupGenerator:
    """Makes dialogues that can only be answered by reading the prompt.

    The same seed and content give the same dialogues.
    """

    def __init__(
        self,
        seed: int,
        *,
        content_dir: Path | None = None,
        mix: Mapping[str, float] | None = None,
    ) -> None:
        """Loads and compiles the content files.

        Args:
            seed: decides everything that follows.
            content_dir: where the content files lie; beside this module by default.
            mix: weights of the kinds persona, lore, chat, recall, tool, mixed, copy and ledger.

        Raises:
            ValueError: if a content file or the mix is wrong.
        """
        folder = content_dir or Path(__file__).parent
        self._rng = random.Random(seed)
        self._seed = seed
        self._count = 0
        weights = dict(DEFAULT_MIX if mix is None else mix)
        unknown = sorted(set(weights) - set(DEFAULT_MIX))
        if unknown or not any(weight > 0 for weight in weights.values()):
            raise ValueError(f"mix: unknown kinds {unknown} or no weight at all")
        self._kinds = list(weights)
        self._weights = list(weights.values())
        slots = Slots(folder, self._rng)
        for name in _LISTED:
            for entry in entries(folder / name):
                slots.learn(local_lists(entry, name))
        self.content = Content(folder, slots, self._rng)
        self.drills = DrillKit(folder, slots, self._rng)

    def __iter__(self) -> Iterator[Dialogue]:
        """Yields dialogues without end."""
        while True:
            yield self.dialogue()

    def dialogue(self) -> Dialogue:
        """Returns a dialogue of a random kind."""
        kind = self._rng.choices(self._kinds, self._weights)[0]
        return self.annotated(kind)[0]

    def annotated(self, kind: str) -> tuple[Dialogue, list[str | None]]:
        """Returns a dialogue of a kind and what its answers have to hold.

        Args:
            kind: persona, lore, chat, recall, tool, mixed, copy or ledger.

        Returns:
            The dialogue, and for each assistant turn the value that it contains, None if nothing
            was looked up, or "" if the right answer is that it is not known.
        """
        while True:
            if kind in ("copy", "ledger"):
                made = self.drills.copy() if kind == "copy" else self.drills.ledger()
                if made.turns:
                    return self._finish(kind, made), made.answers
            else:
                scene, system, context = self._scene(kind)
                if scene.turns:
                    if kind != "tool" and self._rng.random() < _JOINED_SHARE:
                        _join_lines(scene, self._rng)
                    tools = [offer.schema for offer in scene.offers]
                    drill = Drill(system, context, scene.turns, scene.answers)
                    return self._finish(kind, drill, tools), scene.answers

    def validate(self) -> int:
        """Renders every template of the content once.

        Returns:
            How many templates there are.

        Raises:
            ValueError: naming the file and the template that is wrong.
        """
        return validate(self.content, self.drills)

    def copy_drill(self) -> Dialogue:
        """Returns a dialogue in which the character repeats the player's words."""
        return self.annotated("copy")[0]

    def ledger_drill(self) -> Dialogue:
        """Returns a dialogue about the entries of a list."""
        return self.annotated("ledger")[0]

    def probe(self, kind: str) -> tuple[Dialogue, str]:
        """Returns a dialogue to test a model with.

        Args:
            kind: persona, lore, chat, recall, tool, mixed, copy or ledger.

        Returns:
            The dialogue, whose last turn is the assistant's right answer, and the value that a
            right answer must contain. For kind "tool" the last turn is a call and the value one
            of its arguments.
        """
        while True:
            dialogue, answers = self.annotated(kind)
            turns = cast(list[Turn], dialogue["turns"])
            spots = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
            good = [
                (spot, value)
                for spot, value in zip(spots, answers, strict=True)
                if value and (kind != "tool" or "tool_calls" in turns[spot])
            ]
            if good:
                spot, value = good[int(self._rng.random() * len(good))]
                dialogue["turns"] = turns[: spot + 1]
                return dialogue, value

    def _finish(self, kind: str, drill: Drill, tools: list[dict[str, object]] | None = None) -> Dialogue:
        self._count += 1
        label = _OF_KIND.get(kind, "rag" if drill.context else "roleplay")
        if label == "rag" and not drill.context:
            label = "roleplay"
        return {
            "id": f"lookup-{kind}-{self._seed}-{self._count}",
            "kind": "tool" if tools else label,
            "system": drill.system,
            "context": drill.context,
            "tools": tools or [],
            "turns": drill.turns,
        }

    def _scene(self, kind: str) -> tuple[Scene, str, list[str]]:
        """Makes a dialogue of a kind other than the drills."""
        rng = self._rng
        content = self.content
        extra = ""
        least, most = {"persona": (1, 8), "mixed": (1, 5), "chat": (0, 4)}.get(kind, (0, 3))
        if kind in ("lore", "mixed") and rng.random() < 0.35:
            extra = rng.choice(content.lore_rules)
        elif kind == "tool" and rng.random() < 0.4:
            extra = rng.choice(content.tool_rules)
        if kind != "tool" and rng.random() < _REAL_SHARE:
            who = content.persona.make_real(least // 2, min(most, 4), extra)
        else:
            who = content.persona.make(least, most, extra)
        scene = Scene(content, who)
        context: list[str] = []
        system = who.system
        if kind == "lore" or kind == "mixed":
            count = rng.choices((1, 2, 3, 4, 5), (30, 28, 20, 12, 10))[0] if kind == "lore" else 1
            scene.topics = content.lore.topics(count + (kind == "mixed" and rng.random() < 0.4))
            context = content.lore.passages(scene.topics)
            if rng.random() < 0.25:
                context.insert(rng.randint(0, len(context)), rng.choice(content.persona.background["passages"]))
            if rng.random() < 0.08:
                system = f"{system}\n{rng.choice(content.lore_in_system)}{' '.join(context)}"
                context = []
        if kind == "tool":
            scene.offers = content.tools.offers(rng.randint(1, 4))
        self._play(scene, kind, rng.randint(2, 6))
        return scene, system, context

    @staticmethod
    def _play(scene: Scene, kind: str, turns: int) -> None:
        if kind == "persona":
            moves = [
                (scene.ask_fact, 0.68),
                (scene.ask_identity, 0.12),
                (scene.ask_unstated, 0.1),
                (scene.small_talk, 0.1),
            ]
        elif kind == "chat":
            moves = [
                (scene.small_talk, 0.78),
                (scene.ask_fact, 0.08),
                (scene.ask_identity, 0.08),
                (scene.tell, 0.03),
                (scene.ask_told, 0.03),
            ]
        elif kind == "lore":
            moves = [
                (scene.ask_lore, 0.7),
                (scene.ask_lore_missing, 0.14),
                (scene.small_talk, 0.05),
                (scene.ask_fact, 0.06),
                (scene.ask_identity, 0.05),
            ]
        elif kind == "recall":
            scene.tell()
            turns = max(turns, 3) - 1
            moves = [
                (scene.tell, 0.24),
                (scene.ask_told, 0.4),
                (scene.small_talk, 0.12),
                (scene.ask_fact, 0.12),
                (scene.ask_identity, 0.06),
                (scene.ask_untold, 0.06),
            ]
        elif kind == "tool":
            turns = min(turns, 4)
            moves = [
                (scene.call_tool, 0.6),
                (scene.ask_no_tool, 0.13),
                (scene.ask_fact, 0.12),
                (scene.small_talk, 0.08),
                (scene.ask_identity, 0.07),
            ]
        else:
            turns = max(turns, 3)
            moves = [
                (scene.ask_fact, 0.28),
                (scene.ask_lore, 0.28),
                (scene.ask_identity, 0.06),
                (scene.ask_unstated, 0.05),
                (scene.ask_lore_missing, 0.06),
                (scene.small_talk, 0.1),
                (scene.tell, 0.1),
                (scene.ask_told, 0.16),
            ]
        scene.play(turns, moves)
        if kind == "recall":
            scene.ask_told()
