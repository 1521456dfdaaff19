"""A character is read before anybody speaks to it."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from understudy.engine import Engine
from understudy.errors import ContextLengthError, RequestError
from understudy.testing import tiny_config

if TYPE_CHECKING:
    from conftest import Lab

    WaitUntil = Callable[[Callable[[], bool]], None]


def tokens(engine: Engine, request: Any) -> list[int]:
    return [i for c in engine.submit(request) for i in c.token_ids]


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, int]]:
    """Tokens of each prompt, how many were cached, how many read: what the log says of warm answers."""
    every: list[Any] = [record.args for record in caplog.records]
    return [(total, cached, read) for total, cached, read, generated in every if cached and generated == 4]


def test_sixteen_characters_cost_only_their_new_tokens(
    lab: "Lab", caplog: pytest.LogCaptureFixture, wait_until: "WaitUntil"
) -> None:
    """The world's beginning is read once, each persona once, and then nothing but the lines."""
    world = "The river Ouse rose twelve feet in a night, and the bridge was built again by those who stayed. "
    personas = [f"{world}You are number {n:02} of the watch. " for n in range(16)]
    lines = [f"Traveller: which way to the mill, {n}? " for n in range(2)]
    engine, cold = lab.real(), lab.real(prefix_sequences=0)
    for generation in [engine.warm(lab.ids(p)) for p in personas]:
        assert generation.text() == ""
        assert generation.finish_reason == "length"
        assert generation.usage.completion_tokens == 0
    unlike = len("00 of the watch. ")
    assert engine.stats().prefilled_tokens <= len(personas[0]) + 15 * unlike
    assert engine.stats().generated_tokens == 0

    said = dict.fromkeys(range(16), "")
    with caplog.at_level(logging.DEBUG, logger="understudy.engine"):
        for line in lines:
            for n, persona in enumerate(personas):  # everybody in turn: a switch at each line
                request = lab.request(persona + said[n] + line, max_tokens=4, stop_token_ids=frozenset())
                before = engine.stats().prefilled_tokens
                generation = engine.submit(request)
                answer = generation.text()
                new = len(request.prompt_ids) - generation.usage.cached_tokens
                assert engine.stats().prefilled_tokens - before == new
                assert new <= len(line) + 8  # the answer's last tokens, spelled anew
                assert n % 5 or answer == cold.submit(request).text()
                said[n] += line + answer
        # The model thread tells of the last ones when they have ended.
        wait_until(lambda: len(told(caplog)) == 32)
    assert all(total == cached + new for total, cached, new in told(caplog))
    assert all(0 < new <= len(lines[0]) + 8 for _, _, new in told(caplog))


def test_a_prompt_that_was_warmed_to_its_end(lab: "Lab") -> None:
    engine = lab.real()
    request = lab.request("You are Bram.", max_tokens=8, stop_token_ids=frozenset())
    engine.warm(request.prompt_ids).text()
    engine.warm(request.prompt_ids).text()
    assert engine.stats().prefilled_tokens == len("You are Bram.") + 1
    assert tokens(engine, request) == tokens(lab.real(), request)
    assert tokens(engine, lab.request("x", max_tokens=2)) != []


def test_who_speaks_goes_first(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), prefill_tokens=64)
    backend = lab.backends[-1]
    backend.gate.clear()
    talk = engine.submit(lab.request("Hi", max_tokens=6))
    wait_until(lambda: len(backend.steps) == 1)
    warm = engine.warm(lab.ids("w" * 400))
    backend.gate.set()
    assert talk.text() == "AAAAAA"
    warm.text()
    beside = [max(step) for step in backend.steps if len(step) == 2]
    alone = [step[0] for step in backend.steps if len(step) == 1 and step[0] > 2]
    assert beside == [32] * len(beside) != []
    assert alone[0] == 64
    assert sum(beside) + sum(alone) == 400


def test_a_warm_up_gives_up_its_place(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), max_running=1, prefill_tokens=8)
    backend = lab.backends[-1]
    backend.gate.clear()
    warm = engine.warm(lab.ids("w" * 80))
    wait_until(lambda: len(backend.steps) == 1)
    talk = engine.submit(lab.request("Hi", max_tokens=3))
    backend.gate.set()
    assert talk.text() == "AAA"
    warm.text()
    assert backend.steps[1] == [2]  # at once, after the first eight tokens of the warm-up
    assert engine.stats().prefilled_tokens == 82  # and these were not read again
    assert engine.stats().prompt_tokens == 82


def test_a_line_takes_over_the_warm_up_of_its_own_character(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), prefill_tokens=8)
    backend = lab.backends[-1]
    backend.gate.clear()
    warm = engine.warm(lab.ids("w" * 80))
    wait_until(lambda: len(backend.steps) == 1)
    talk = engine.submit(lab.request("w" * 80 + "Hi", max_tokens=3))
    backend.gate.set()
    assert talk.text() == "AAA"
    warm.text()
    assert engine.stats().prefilled_tokens <= 82 + 1  # nothing twice, but for the warm-up's last token
    assert talk.usage.cached_tokens == 8


def test_cancelling_keeps_what_was_read(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), prefill_tokens=8)
    backend = lab.backends[-1]
    backend.gate.clear()
    warm = engine.warm(lab.ids("w" * 80))
    wait_until(lambda: len(backend.steps) == 1)
    warm.cancel()
    backend.gate.set()
    assert warm.text() == ""
    assert warm.finish_reason == "cancelled"
    talk = engine.submit(lab.request("w" * 80, max_tokens=1))
    talk.text()
    assert talk.usage.cached_tokens == 8


def test_a_full_context_can_be_warmed_and_more_cannot(lab: "Lab") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), tiny_config(max_position_embeddings=8))
    assert engine.warm(lab.ids("12345678")).text() == ""
    assert engine.stats().prefilled_tokens == 8
    with pytest.raises(ContextLengthError):
        engine.warm(lab.ids("123456789"))
    with pytest.raises(RequestError):
        engine.warm(())


def test_errands_do_not_wait_for_a_long_answer(lab: "Lab") -> None:
    engine = lab.saying("a" * 2000)
    slow = lab.backends[-1].forward
    lab.backends[-1].forward = lambda batch: (time.sleep(0.005), slow(batch))[1]  # type: ignore[method-assign]
    talk = engine.submit(lab.request("x"))
    began = time.monotonic()
    engine._call(lambda: None)
    assert time.monotonic() - began < 2
    assert not talk.is_done
    talk.cancel()
