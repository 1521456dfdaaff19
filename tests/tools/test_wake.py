from typing import Any

import numpy as np
import pytest

from understudy.kernels.drawing import allowed_places
from understudy.testing import byte_tokenizer
from understudy.tokenizer import Tokenizer
from understudy.tokenizer.byte_level import byte_level_definition
from understudy.tools.wake import WakeWatch

MARKER = "<toolcall>"


def banned(mask: Any, tokenizer: Tokenizer) -> list[int]:
    size = tokenizer.vocab_size
    return np.setdiff1d(np.arange(size), allowed_places(mask, size)).tolist()


def follow(watch: WakeWatch, text: str) -> tuple[int, bool]:
    matched, has_woken = 0, False
    for byte in text.encode():
        assert not has_woken
        matched, has_woken = watch.follow(matched, bytes([byte]))
    return matched, has_woken


def test_a_marker_that_is_a_token_cannot_be_spelled() -> None:
    tokenizer = byte_tokenizer()
    watch = WakeWatch(tokenizer, MARKER, vocab_size=tokenizer.vocab_size)
    assert watch.is_marker(10)
    assert watch.mask(0, is_silent=False) is None
    last = watch.mask(len(MARKER) - 1, is_silent=False)
    assert last is not None
    assert banned(last, tokenizer) == tokenizer.encode(">")
    silent = watch.mask(0, is_silent=True)
    assert silent is not None
    assert banned(silent, tokenizer) == [10]


def test_a_marker_that_is_no_token_is_seen_in_the_text() -> None:
    tokenizer = Tokenizer(byte_level_definition(["</s>"]))
    watch = WakeWatch(tokenizer, MARKER, vocab_size=tokenizer.vocab_size)
    assert all(watch.mask(n, is_silent=False) is None for n in range(len(MARKER)))
    assert follow(watch, "a <toolcall") == (9, False)
    assert follow(watch, "a <too<toolcall>") == (0, True)
    assert follow(watch, "a <toolcalm") == (0, False)


@pytest.mark.parametrize("merge", ["l>x", "ll>"])
def test_a_token_that_runs_past_the_marker_is_not_allowed(merge: str) -> None:
    definition = byte_level_definition(["</s>"])
    definition["pre_tokenizer"]["use_regex"] = False  # which would part letters from signs
    steps = [(merge[:n], merge[n]) for n in range(1, len(merge))]
    for first, second in steps:
        definition["model"]["vocab"][first + second] = len(definition["model"]["vocab"])
        definition["model"]["merges"].append(f"{first} {second}")
    tokenizer = Tokenizer(definition)
    watch = WakeWatch(tokenizer, MARKER, vocab_size=tokenizer.vocab_size)
    (token_id,) = tokenizer.encode(merge)
    before = len(MARKER) - len(merge) + (1 if merge.endswith("x") else 0)
    mask = watch.mask(before, is_silent=False)
    assert mask is None if merge == "ll>" else (mask is not None and banned(mask, tokenizer) == [token_id])
