"""What a request asked of a model and what came of it, for whoever reports on requests; not a word of what was said."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import Request

from understudy.engine import Generation

__all__ = ["Answered", "answered", "note_answered"]

_SETTINGS = (
    *("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed", "n"),
    *("frequency_penalty", "presence_penalty"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """One request that a model works for, or worked.

    Attributes:
        operation: OpenTelemetry's word: "chat", "text_completion" or "embeddings".
        asked_model: the name that the client asked for.
        model: the name of the model that answered.
        id: of the answer; None where it has none.
        settings: numbers that say how to answer, those that were sent.
        generations: gives what the engine makes for it.
        reasons: gives why each choice that is there ended, in the client's words.
        num_input_tokens: of all prompts together; None for the first generation's.
    """

    operation: str
    asked_model: str
    model: str
    id: str | None = None
    settings: Mapping[str, float]
    generations: Callable[[], Sequence[Generation]]
    reasons: Callable[[], Sequence[str]]
    num_input_tokens: int | None = None


def note_answered(
    request: Request,
    operation: str,
    body: Any,
    *,
    model: str,
    answer_id: str | None = None,
    generations: Callable[[], Sequence[Generation]] = tuple,
    reasons: Callable[[], Sequence[str]] = tuple,
    num_input_tokens: int | None = None,
) -> None:
    """Keep with a request what it is about.

    Args:
        request: the request.
        operation: as of `Answered`, as are the others.
        body: what the client sent, parsed.
        model: the name of the model that answers.
        answer_id: of the answer.
        generations: as of `Answered`.
        reasons: as of `Answered`.
        num_input_tokens: as of `Answered`.
    """
    request.state.answered = Answered(
        operation=operation,
        asked_model=getattr(body, "model", None) or model,
        model=model,
        id=answer_id,
        settings={name: value for name in _SETTINGS if (value := getattr(body, name, None)) is not None},
        generations=generations,
        reasons=reasons,
        num_input_tokens=num_input_tokens,
    )


def answered(scope: Mapping[str, Any]) -> Answered | None:
    """What was noted of a request; None where no model was asked."""
    found: Answered | None = scope.get("state", {}).get("answered")
    return found
