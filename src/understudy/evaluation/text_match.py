"""Exact match and token F1 of short answers, normalised as in SQuAD's evaluation (Rajpurkar et al., 1606.05250)."""

import re
import string
from collections import Counter
from collections.abc import Iterable

__all__ = ["exact_match", "normalized", "token_f1"]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "\u2018\u2019\u201c\u201d\u2014\u2013")


def normalized(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Curly quotes and dashes count as punctuation too."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truths: Iterable[str]) -> bool:
    """Whether the normalised answer is one of the normalised truths."""
    return normalized(answer) in {normalized(truth) for truth in truths}


def token_f1(answer: str, truths: Iterable[str]) -> float:
    """The best F1 of the answer's normalised words against a truth's, 0 to 1; two empty texts agree."""
    return max((_f1(normalized(answer).split(), normalized(truth).split()) for truth in truths), default=0.0)


def _f1(answer: list[str], truth: list[str]) -> float:
    shared = (Counter(answer) & Counter(truth)).total()
    if not answer or not truth:
        return float(answer == truth)
    if not shared:
        return 0.0
    precision, recall = shared / len(answer), shared / len(truth)
    return 2 * precision * recall / (precision + recall)
