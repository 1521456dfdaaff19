"""Greedy answers of the engine to many prompts, and their transcripts."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from understudy.engine import SamplingParams
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
    """

    answer: Answer
    ended_by: str


def answer_all(
    model: Model, conversations: Sequence[Conversation], *, max_tokens: int, progress: Progress
) -> list[Reply]:
    """Let the engine answer each conversation, greedily, many at a time.

    A sequence's tokens do not depend on who shares its batch, so the answers are those of one at a time.

    Raises:
        EngineError: the backend failed.
    """
    replies: list[Reply] = []
    for start in range(0, len(conversations), _IN_FLIGHT):
        running = [_submit(model, one, max_tokens) for one in conversations[start : start + _IN_FLIGHT]]
        for generation in running:
            if generation is None:
                replies.append(Reply(answer=Answer(text=""), ended_by="too_long"))
            else:
                text = generation.text()
                replies.append(Reply(answer=parse_answer(text), ended_by=str(generation.finish_reason)))
            progress(len(replies), len(conversations))
    return replies


def _submit(model: Model, conversation: Conversation, max_tokens: int) -> Any:
    try:
        return model.generate(conversation, sampling=SamplingParams(temperature=0.0, seed=0), max_tokens=max_tokens)
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
