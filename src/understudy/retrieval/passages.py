"""What is searched: passages, and how a text is divided into them."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

__all__ = ["MAX_WORDS", "Document", "Passage", "count_words", "split_text"]

MAX_WORDS = 160
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\\W_]+")
_CLOSERS = "[\"'\u201d\u2019)\\]]"
_SENTENCE = re.compile(rf"(?<=[.!?\u2026])\s+|(?<=[.!?\u2026]{_CLOSERS})\s+|(?<=[\u3002\uff01\uff1f])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of lore that can stand in a prompt.

    Attributes:
        id: unique within a database; for citation.
        title: path of headings, e.g. "The river > Floods".
        text: what the model is shown.
        keys: words that call it up though they are not in the text.
        line: where it begins in its document, from 1.
        known_to: names of the characters and groups that may know it; None: everybody.
    """

    id: str
    title: str = ""
    text: str
    keys: tuple[str, ...] = ()
    line: int = 1
    known_to: frozenset[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A file of lore, or what stands for one.

    Attributes:
        name: unique within a database, e.g. a path relative to the lore folder.
        digest: changes whenever its passages may.
        read: makes the passages; called only if the digest is new.
    """

    name: str
    digest: str
    read: Callable[[], Sequence[Passage]]


def count_words(text: str) -> int:
    """Words; in scripts without spaces, characters."""
    return len(_WORD.findall(text))


def split_text(text: str, *, first_line: int = 1, max_words: int = MAX_WORDS) -> Iterator[tuple[int, str]]:
    """Divide a text into pieces of at most `max_words`, at paragraphs, else sentences, else words.

    Args:
        text: any text.
        first_line: number of its first line.
        max_words: bound; see `count_words`.

    Yields:
        The line that a piece begins in, and the piece.
    """
    pieces: list[str] = []
    num_words, began = 0, first_line
    for line, paragraph in _bounded(text, first_line, max_words):
        words = count_words(paragraph)
        if pieces and num_words + words > max_words:
            yield began, "\n\n".join(pieces)
            pieces, num_words = [], 0
        if not pieces:
            began = line
        pieces.append(paragraph)
        num_words += words
    if pieces:
        yield began, "\n\n".join(pieces)


def _bounded(text: str, first_line: int, max_words: int) -> Iterator[tuple[int, str]]:
    """Paragraphs; those over the bound in parts."""
    lines: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], first_line):
        if line.strip():
            lines.append(line)
        elif lines:
            began, paragraph = number - len(lines), " ".join(" ".join(lines).split())
            is_short = count_words(paragraph) <= max_words
            yield from ((began, p) for p in ([paragraph] if is_short else _packed(_sentences(paragraph), max_words)))
            lines = []


def _sentences(paragraph: str) -> list[str]:
    return [sentence for sentence in _SENTENCE.split(paragraph) if sentence]


def _packed(sentences: Sequence[str], max_words: int) -> Iterator[str]:
    pending, num_words = "", 0
    for sentence in sentences:
        for part in [sentence] if count_words(sentence) <= max_words else _cut(sentence, max_words):
            words = count_words(part)
            if pending and num_words + words > max_words:
                yield pending
                pending, num_words = "", 0
            pending = f"{pending} {part}" if pending else part
            num_words += words
    if pending:
        yield pending


def _cut(sentence: str, max_words: int) -> Iterator[str]:
    """A sentence over the bound, after every so many words."""
    starts = [match.start() for match in _WORD.finditer(sentence)][::max_words][1:]
    for start, end in zip([0, *starts], [*starts, len(sentence)], strict=True):
        yield sentence[start:end].strip()
