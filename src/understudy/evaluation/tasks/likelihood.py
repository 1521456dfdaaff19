"""How well a model predicts text: bits per byte and perplexity, on held-out books and on the characters' own lines."""

import dataclasses
import math
from collections.abc import Iterator

from understudy.data.dialogues import to_conversation
from understudy.data.sources import read_texts
from understudy.evaluation.intervals import ratio_figure
from understudy.evaluation.lines import WORLD_FILES, read_evaluation_dialogues
from understudy.evaluation.logits import next_token_logits, token_nats
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Figure, Outcome, Progress
from understudy.prompt import encode_pieces, render
from understudy.tokenizer import Tokenizer

__all__ = ["BOOK_FILES", "BookLikelihood", "LineLikelihood", "book_windows", "spoken_tokens"]

_BOOKS = "books_dev"
BOOK_FILES = (("eval/books_dev.tar",),)
_WINDOW = 256


class BookLikelihood:
    """Bits per byte and perplexity of held-out books."""

    name = "books"
    method = (
        f"Five held-out books ({_BOOKS}) in windows of {_WINDOW} tokens that do not overlap; the first token of a "
        "window is not predicted and its bytes are not counted. Computed by the runtime's own backend."
    )
    version = 1
    needs = BOOK_FILES
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        windows = book_windows(subject, subject.files.tokenizer)
        texts = [(window, [False] + [True] * (len(window) - 1)) for window in windows]
        figures = _figures(subject, texts, progress, name="books", label="held-out books")
        length = len(windows[0]) if windows else 0
        return Outcome(figures=figures, settings={"windows": len(windows), "window_tokens": length})


class LineLikelihood:
    """Bits per byte and perplexity of what the evaluation world's characters say."""

    name = "lines"
    method = (
        "The characters' own turns in the evaluation world's dialogues, words and calls, each after the "
        "dialogue's true beginning in the prompt template. Computed by the runtime's own backend."
    )
    version = 1
    needs = WORLD_FILES
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        texts = spoken_tokens(subject, subject.files.tokenizer)
        figures = _figures(subject, texts, progress, name="lines", label="characters' lines")
        left_out = len(read_evaluation_dialogues(subject)) - len(texts)
        return Outcome(figures=figures, settings={"dialogues": len(texts), "longer_than_context": left_out})


def book_windows(subject: Subject, tokenizer: Tokenizer, most: int | None = None) -> list[list[int]]:
    """Token ids of windows of the held-out books: all, or `most` of them drawn by the subject's seed."""
    assert subject.data is not None
    length = min(_WINDOW, subject.files.config.max_position_embeddings)
    windows = [
        ids[start : start + length]
        for ids in tokenizer.encode_batch(list(read_texts(_BOOKS, subject.data)))
        for start in range(0, len(ids) - length, length)
    ]
    return [windows[index] for index in subject.choose(len(windows), most)]


def spoken_tokens(subject: Subject, tokenizer: Tokenizer) -> list[tuple[list[int], list[bool]]]:
    """Token ids of the evaluation world's dialogues that fit the context, and where the characters speak."""
    longest = subject.files.config.max_position_embeddings
    encoded = (
        encode_pieces(render(to_conversation(record), add_generation_prompt=False), tokenizer)
        for record in read_evaluation_dialogues(subject)
    )
    return [(ids, flags) for ids, flags in encoded if len(ids) <= longest]


def _figures(
    subject: Subject, texts: list[tuple[list[int], list[bool]]], progress: Progress, *, name: str, label: str
) -> tuple[Figure, ...]:
    nats: list[float] = []
    num_bytes: list[float] = []
    num_tokens: list[float] = []
    for total, tokens, length in _measured(subject, texts):
        nats.append(total)
        num_tokens.append(tokens)
        num_bytes.append(length)
        progress(len(nats), len(texts))
    bits = [total / math.log(2) for total in nats]
    count = int(sum(num_tokens))
    per_token = ratio_figure(
        f"{name}.perplexity", f"{label}: perplexity a token", nats, num_tokens, unit="", better="lower", count=count
    )
    perplexity = [
        dataclasses.replace(
            figure,
            value=math.exp(figure.value),
            low=None if figure.low is None else math.exp(figure.low),
            high=None if figure.high is None else math.exp(figure.high),
        )
        for figure in per_token
    ]
    per_byte = ratio_figure(
        f"{name}.bits_per_byte", f"{label}: bits per byte", bits, num_bytes, unit="bits/byte", better="lower",
        count=int(sum(num_bytes)),
    )  # fmt: skip
    return (*per_byte, *perplexity)


def _measured(subject: Subject, texts: list[tuple[list[int], list[bool]]]) -> Iterator[tuple[float, int, int]]:
    """Of each text the nats, number and bytes of its wanted tokens."""
    tokenizer = subject.files.tokenizer
    for ids, is_wanted in texts:
        total = 0.0
        for places, logits in next_token_logits(subject.backend, ids, is_wanted):
            nats = token_nats(logits, [ids[place] for place in places])
            total += float(nats[[is_wanted[place] for place in places]].sum())
        wanted = [token for token, flag in zip(ids[1:], is_wanted[1:], strict=True) if flag]
        yield total, len(wanted), sum(len(tokenizer.token_bytes(token)) for token in wanted)
