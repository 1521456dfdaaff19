import math

import numpy as np
import pytest

from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks.likelihood import BookLikelihood, LineLikelihood, book_windows, spoken_tokens


def test_books_are_measured_in_bits_by_bytes(subject: Subject) -> None:
    outcome = BookLikelihood().run(subject, lambda done, total: None)
    figures = {figure.name: figure for figure in outcome.figures}
    windows = book_windows(subject, subject.files.tokenizer)
    assert outcome.settings == {"windows": len(windows), "window_tokens": 256}
    bits, perplexity = figures["books.bits_per_byte"], figures["books.perplexity"]
    assert bits.count == perplexity.count == 255 * len(windows)  # a token is a byte
    assert perplexity.value == pytest.approx(2**bits.value, rel=1e-6)
    assert perplexity.low is not None
    assert perplexity.low <= perplexity.value


def test_the_figure_is_the_trainers(subject: Subject) -> None:
    import torch

    from understudy.training.folder import read_lm
    from understudy.training.metrics import bits_per_byte

    model, files = read_lm(subject.path)
    windows = book_windows(subject, files.tokenizer)
    values = [
        bits_per_byte(
            model,
            files.tokenizer,
            files.tokenizer.decode(window),
            length=256,
            autocast=torch.autocast("cpu", enabled=False),
        )
        for window in windows
    ]
    outcome = BookLikelihood().run(subject, lambda done, total: None)
    assert outcome.figures[0].value == pytest.approx(float(np.mean(values)), rel=5e-3)


def test_only_the_characters_words_count(subject: Subject) -> None:
    texts = spoken_tokens(subject, subject.files.tokenizer)
    outcome = LineLikelihood().run(subject, lambda done, total: None)
    count = sum(sum(flags[1:]) for _, flags in texts)
    assert outcome.settings == {"dialogues": 2, "longer_than_context": 0}
    assert outcome.figures[1].count == count
    assert math.isfinite(outcome.figures[0].value)
