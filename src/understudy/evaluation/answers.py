"""Greedy answers of the engine to many prompts, and their transcripts."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from understudy.engine import Generation, SamplingParams
from understudy.engine.constraint import Constraint
from understudy.errors import ContextLengthError
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Progress
from understudy.npc.model import Model
from understudy.prompt import Answer, Conversation, parse_answer

__all__ = ["Reply", "answer_all", "write_transcript"]

_IN_FLIGHT = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """The model's answer to one prompt.

    Attributes:
        answer: words and calls.
        ended_by: "stop", "length", or "too_long" where the prompt alone outgrew the context.
        raw: what the model wrote, calls in it as they came.
    """

    answer: Answer
    ended_by: str
    raw: str = ""


def answer_all(
    model: Model,
    conversations: Sequence[Conversation],
    *,
    max_tokens: int,
    progress: Progress,
    constraints: Sequence[Callable[[], Constraint] | None] = (),
) -> list[Reply]:
    """Let the engine answer each conversation, greedily, many at a time.

    A sequence's tokens do not depend on who shares its batch, so the answers are those of one at a time.

    Args:
        model: who answers.
        conversations: what it is shown.
        max_tokens: longest answer, in tokens.
        progress: told how many are answered.
        constraints: what each answer must follow; empty for nothing.

    Raises:
        EngineError: the backend failed.
    """
    replies: list[Reply] = []
    asked = list(zip(conversations, constraints or [None] * len(conversations), strict=True))
    for start in range(0, len(asked), _IN_FLIGHT):
        running = [_submit(model, *one, max_tokens) for one in asked[start : start + _IN_FLIGHT]]
        for generation in running:
            if generation is None:
                replies.append(Reply(answer=Answer(text=""), ended_by="too_long"))
            else:
                text = generation.text()
                replies.append(Reply(answer=parse_answer(text), ended_by=str(generation.finish_reason), raw=text))
            progress(len(replies), len(conversations))
    return replies


def _submit(
    model: Model, conversation: Conversation, constraint: Callable[[], Constraint] | None, max_tokens: int
) -> Generation | None:
    sampling = SamplingParams(temperature=0.0, seed=0)
    try:
        return model.generate(conversation, sampling=sampling, max_tokens=max_tokens, constraint=constraint)
    except ContextLengthError:
        return None


def write_transcript(
    subject: Subject, name: str, rows: Iterable[Mapping[str, Any]], markdown: str = ""
) -> tuple[str, ...]:
    """Write `transcripts/NAME.jsonl`, and `NAME.md` for people if there is a text.

    Returns:
        The files' paths inside the output folder.
    """
    folder = subject.output / "transcripts"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}
    if markdown:
        texts[f"{name}.md"] = markdown
    for file, text in texts.items():
        part = folder / f"{file}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / file)
    return tuple(f"transcripts/{file}" for file in texts)
