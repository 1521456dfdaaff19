"""Questions on lore, with what a character is given: the right passages, those that retrieval finds, or nothing."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from understudy.evaluation.answers import Reply, answer_all, write_transcript
from understudy.evaluation.checks import LineCheck, Verdict, admits_ignorance, judge
from understudy.evaluation.intervals import share_figure
from understudy.evaluation.lines import WORLD, WORLD_FILES, Line, read_evaluation_dialogues, read_lines
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Figure, Outcome, Progress
from understudy.evaluation.words import contains_words, spoken_words
from understudy.npc.world import load_world
from understudy.npc.world_lore import open_world_lore
from understudy.prompt import Conversation

__all__ = ["LoreQuestions"]

_MAX_TOKENS = 96
_MODES = {"given": "the passages it needs", "found": "passages found in the whole world", "none": "no passage"}
_FILES = tuple(
    tuple(f"{folder}/{WORLD}/{name}" for folder in ("npc_worlds", "worlds"))
    for name in ("world.json", "characters.json")
)

_Judged = tuple[str, Line, Conversation, Reply, Verdict]


class LoreQuestions:
    """Spoken turns of the evaluation world's dialogues on lore, thrice."""

    name = "lore"
    method = (
        f"Every checked turn of the dialogues on lore of the world {WORLD} is generated (greedy, at most {_MAX_TOKENS} "
        "tokens) with the passages that its author gave, with those that BM25 finds among all passages that the "
        "character may know, and with none. Right: all facts that the world's checks ask for, as whole words, numbers "
        "as words or digits. Unknown: the turn has no answer in the world, and the character says so. Intervals are "
        "Wilson's, 95 %."
    )
    version = 1
    needs = (*WORLD_FILES, *_FILES)
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        lines = [line for line in read_lines(subject) if line.kind == "rag" and line.check and not line.check.is_empty]
        shown = {
            "given": [line.conversation for line in lines],
            "found": _with_found(subject, lines),
            "none": [dataclasses.replace(line.conversation, contexts=()) for line in lines],
        }
        conversations = [conversation for mode in _MODES for conversation in shown[mode]]
        with subject.talking() as model:
            replies = answer_all(model, conversations, max_tokens=_MAX_TOKENS, progress=progress)
        asked = [(mode, line) for mode in _MODES for line in lines]
        judged = [
            (mode, line, conversation, reply, judge(reply.answer.text, line.check or LineCheck()))
            for (mode, line), conversation, reply in zip(asked, conversations, replies, strict=True)
        ]
        files = write_transcript(subject, self.name, map(_row, judged))
        return Outcome(
            figures=tuple(_figures(judged)),
            settings={"lines": len(lines), "max_tokens": _MAX_TOKENS, "temperature": 0.0},
            files=files,
        )


def _with_found(subject: Subject, lines: Sequence[Line]) -> list[Conversation]:
    """Each line with what retrieval finds for it, as a session would ask."""
    world = load_world(subject.require(*_FILES[0]).parent)
    speakers = {str(record["id"]): str(record["character"]) for record in read_evaluation_dialogues(subject)}
    conversations = []
    with open_world_lore(world) as lore:
        for line in lines:
            *history, said = [m.content for m in line.conversation.messages if m.role in ("user", "assistant")]
            found = lore.search(said, character=speakers[line.dialogue], history=history[-2:])
            contexts = tuple(passage.context for passage in found)
            conversations.append(dataclasses.replace(line.conversation, contexts=contexts))
    return conversations


def _figures(judged: Sequence[_Judged]) -> Iterator[Figure]:
    for mode, label in _MODES.items():
        chosen = [(line, shown, reply, verdict) for name, line, shown, reply, verdict in judged if name == mode]
        yield from share_figure(f"lore.{mode}", f"lines that pass, with {label}", [v.passed for *_, v in chosen])
        facts = [one for one in chosen if one[0].check and one[0].check.facts]
        right = [not (verdict.missing or verdict.is_silent) for *_, verdict in facts]
        yield from share_figure(f"lore.{mode}_facts", f"all facts right, with {label}", right)
        there = [_holds(shown, line.check) for line, shown, *_ in facts if line.check]
        yield from share_figure(f"lore.{mode}_there", f"all facts are in {label}", there)
        unknown = [
            all(admits_ignorance(reply.answer.text, group) for group in line.check.admissions)
            for line, _, reply, _ in chosen
            if line.check and line.check.admissions
        ]
        yield from share_figure(f"lore.{mode}_unknown", f"admits what it cannot know, with {label}", unknown)


def _holds(shown: Conversation, check: LineCheck) -> bool:
    """Whether the passages name every fact."""
    words = spoken_words(" ".join(shown.contexts))
    return all(any(contains_words(words, spoken_words(fact)) for fact in group) for group in check.facts)


def _row(one: _Judged) -> dict[str, Any]:
    mode, line, shown, reply, verdict = one
    return {
        "mode": mode,
        "dialogue": line.dialogue,
        "turn": line.number,
        "player": line.player,
        "passages": list(shown.contexts),
        "answer": reply.answer.text,
        "truth": line.truth,
        "passed": verdict.passed,
    }
