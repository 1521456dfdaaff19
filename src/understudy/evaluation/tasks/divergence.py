"""How far a model strays from its parent: KL and top-1 agreement, position by position."""

from collections.abc import Callable

import numpy as np

from understudy.errors import DataError
from understudy.evaluation.intervals import ratio_figure
from understudy.evaluation.lines import WORLD_FILES
from understudy.evaluation.logits import divergence, next_token_logits
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Outcome, Progress
from understudy.evaluation.tasks.likelihood import BOOK_FILES, book_windows, spoken_tokens
from understudy.tokenizer import Tokenizer

__all__ = ["BookDivergence", "LineDivergence"]

_MAX_WINDOWS = 128

_Texts = list[tuple[list[int], list[bool]]]


class BookDivergence:
    """KL and agreement on held-out books."""

    name = "kl_books"
    method = (
        f"Up to {_MAX_WINDOWS} windows of the held-out books, drawn by the seed: KL(parent || model) over the "
        "whole vocabulary, and how often both have the same first choice. Both models run on the runtime's own "
        "backend."
    )
    version = 1
    needs = BOOK_FILES
    needs_parent = True

    def lacks(self, subject: Subject) -> str | None:
        """See `Task`."""
        return _why_not_comparable(subject)

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""

        def read(tokenizer: Tokenizer) -> _Texts:
            windows = book_windows(subject, tokenizer, _MAX_WINDOWS)
            return [(window, [False] + [True] * (len(window) - 1)) for window in windows]

        return _measure(subject, read, progress, name="kl_books", label="held-out books")


class LineDivergence:
    """KL and agreement on what the evaluation world's characters say."""

    name = "kl_lines"
    method = (
        "The characters' own turns in the evaluation world's dialogues, each after the dialogue's true beginning: "
        "KL(parent || model) over the whole vocabulary, and how often both have the same first choice. Both "
        "models run on the runtime's own backend."
    )
    version = 1
    needs = WORLD_FILES
    needs_parent = True

    def lacks(self, subject: Subject) -> str | None:
        """See `Task`."""
        return _why_not_comparable(subject)

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""

        def read(tokenizer: Tokenizer) -> _Texts:
            return spoken_tokens(subject, tokenizer)

        return _measure(subject, read, progress, name="kl_lines", label="characters' lines")


def _why_not_comparable(subject: Subject) -> str | None:
    assert subject.parent is not None
    theirs, ours = subject.parent[0].config, subject.files.config
    if theirs.vocab_size != ours.vocab_size:
        return (
            f"the parent has a vocabulary of {theirs.vocab_size} tokens, the model one of {ours.vocab_size}; "
            "bits per byte compare them all the same"
        )
    return None


def _measure(
    subject: Subject, read: Callable[[Tokenizer], _Texts], progress: Progress, *, name: str, label: str
) -> Outcome:
    assert subject.parent is not None
    files, backend = subject.parent
    texts = read(subject.files.tokenizer)
    if texts != read(files.tokenizer):
        raise DataError(
            f"{files.path} cuts texts into other tokens than {subject.path}; a divergence needs a parent with the "
            "same tokenizer, or leave --parent out."
        )
    longest = files.config.max_position_embeddings
    texts = [(ids, flags) for ids, flags in texts if len(ids) <= longest]
    sums: list[float] = []
    same: list[float] = []
    counts: list[float] = []
    for ids, flags in texts:
        total, agreed = 0.0, 0
        pairs = zip(next_token_logits(backend, ids, flags), next_token_logits(subject.backend, ids, flags), strict=True)
        for (places, theirs), (_, ours) in pairs:
            nats, agrees = divergence(theirs, ours)
            wanted = np.asarray([flags[place] for place in places])
            total += float(nats[wanted].sum())
            agreed += int(agrees[wanted].sum())
        sums.append(total)
        same.append(agreed)
        counts.append(sum(flags[1:]))
        progress(len(sums), len(texts))
    count = int(sum(counts))
    kl = f"{label}: KL(parent || model)"
    first_choice = f"{label}: same first choice as the parent"
    return Outcome(
        figures=(
            *ratio_figure(f"{name}.kl", kl, sums, counts, unit="nats", better="lower", count=count),
            *ratio_figure(f"{name}.top1", first_choice, same, counts, unit="share", better="higher", count=count),
        ),
        settings={"texts": len(texts)},
    )
