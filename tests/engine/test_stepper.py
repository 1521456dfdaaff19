"""Two halves of a batch, one computed while the other is drawn: the same text, and a failure loses nothing."""

import gc
import random
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from understudy.engine import GenerationRequest, SamplingParams, Step
from understudy.errors import EngineError
from understudy.kernels.native import native_module
from understudy.model.native_backend import CpuBackend, CpuFlight
from understudy.testing import tiny_model

if TYPE_CHECKING:
    from conftest import Lab

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")

NUM = 40  # more than run together


class Watched(CpuBackend):
    """Counts passes, and can be held up or broken in the air."""

    def __init__(self) -> None:
        model = tiny_model()
        super().__init__(model.config, model.weights, num_threads=2)
        self.num_launched = self.num_forward = 0
        self.most_airborne = self.num_airborne = 0
        self.failing: str | None = None
        self.may_land = threading.Event()
        self.may_land.set()

    def forward(self, batch):  # type: ignore[no-untyped-def]
        self.num_forward += 1
        return super().forward(batch)

    def launch(self, batch: Sequence[Step]) -> CpuFlight:  # type: ignore[override]
        if self.failing == "launch":
            raise RuntimeError("no start")
        self.num_launched += 1
        self.num_airborne += 1
        self.most_airborne = max(self.most_airborne, self.num_airborne)
        return WatchedFlight(super().launch(batch), self)  # type: ignore[return-value]


class WatchedFlight:
    def __init__(self, own: CpuFlight, backend: Watched) -> None:
        self.own, self.backend = own, backend

    def land(self) -> list[npt.NDArray[np.float32]]:
        assert self.backend.may_land.wait(20)
        self.backend.num_airborne -= 1
        if self.backend.failing == "land":
            self.own.settle()
            raise RuntimeError("crashed")
        return self.own.land()

    def settle(self) -> None:
        self.backend.num_airborne -= 1
        self.own.settle()


def requests(lab: "Lab") -> list[GenerationRequest]:
    """Prompts of all lengths, some with a beginning in common, drawn in all ways."""
    chance = random.Random(3)
    found = []
    for number in range(NUM):
        prompt = ("You are Hettie. " if number % 2 else "") + "".join(
            chance.choice("abc ") for _ in range(chance.randint(1, 90))
        )
        sampling = SamplingParams(
            temperature=0.0 if number % 5 == 0 else 1.0,
            top_p=0.9 if number % 3 else 1.0,
            repetition_penalty=1.2 if number % 4 == 0 else 1.0,
            dry_multiplier=0.8 if number % 7 == 0 else 0.0,
            logit_bias={7: -100.0} if number % 6 == 0 else {},
            seed=number,
        )
        top = 2 if number % 8 == 0 else None
        found.append(lab.request(prompt, sampling=sampling, max_tokens=chance.randint(1, 30), top_logprobs=top))
    return found


def answers(lab: "Lab", backend: CpuBackend, **options: int) -> list[tuple[object, ...]]:
    engine = lab.open(backend, **options)
    generations = [engine.submit(request) for request in requests(lab)]
    told = []
    for generation in generations:
        chunks = list(generation)
        ids = tuple(i for chunk in chunks for i in chunk.token_ids)
        logprobs = tuple(one for chunk in chunks for one in chunk.logprobs)
        told.append((ids, "".join(chunk.text for chunk in chunks), generation.finish_reason, logprobs))
    engine.close()
    return told


def test_halves_say_what_each_says_alone(lab: "Lab") -> None:
    halves, whole = Watched(), Watched()
    expected = answers(lab, whole, max_running=1, prefix_sequences=0)
    assert answers(lab, halves) == expected
    assert answers(lab, Watched(), overlaps=False) == expected
    assert answers(lab, Watched(), prefill_tokens=5) == expected
    assert (whole.num_launched, halves.most_airborne) == (0, 2)
    assert halves.num_launched > 20


def test_figures_are_those_of_one_pass_at_a_time(lab: "Lab") -> None:
    engine = lab.open(Watched())
    found = [engine.submit(request) for request in requests(lab)]
    for generation in found:
        generation.text()
    stats = engine.stats()
    assert stats.generated_tokens == sum(generation.usage.completion_tokens for generation in found)
    assert stats.prefilled_tokens == stats.prompt_tokens - stats.cached_tokens


def test_few_share_one_pass(lab: "Lab") -> None:
    backend = Watched()
    engine = lab.open(backend)
    for generation in [engine.submit(lab.request(f"prompt {n}", max_tokens=20)) for n in range(8)]:
        generation.text()
    assert backend.num_launched == 0
    assert backend.num_forward > 0


def test_who_leaves_in_the_air_disturbs_nobody(lab: "Lab", wait_until: Callable[..., None]) -> None:
    expected = answers(lab, Watched(), max_running=1)
    backend = Watched()
    engine = lab.open(backend, prefix_sequences=0)
    num_free = backend.num_free_tokens()
    backend.may_land.clear()
    generations = [engine.submit(request) for request in requests(lab)]
    wait_until(lambda: backend.num_airborne > 0)
    for generation in generations[1::2]:
        generation.cancel()
    backend.may_land.set()
    for number, generation in enumerate(generations):
        text = generation.text()
        if number % 2 == 0:
            assert text == expected[number][1]
    wait_until(lambda: backend.num_free_tokens() == num_free)


@pytest.mark.parametrize("where", ["launch", "land"])
def test_a_pass_that_fails_fails_those_that_run_and_no_later_ones(
    lab: "Lab", wait_until: Callable[..., None], where: str
) -> None:
    backend = Watched()
    engine = lab.open(backend, prefix_sequences=0)
    num_free = backend.num_free_tokens()
    backend.may_land.clear()
    running = [engine.submit(lab.request(f"prompt {n}", max_tokens=40)) for n in range(20)]
    wait_until(lambda: backend.num_airborne > 0)
    backend.failing = where
    backend.may_land.set()
    num_failed = 0
    for generation in running:
        try:
            generation.text()
        except EngineError:
            num_failed += 1
    assert num_failed
    backend.failing = None
    for generation in [engine.submit(lab.request(f"prompt {n}", max_tokens=4)) for n in range(20)]:
        assert generation.text() is not None
        assert generation.finish_reason in ("length", "stop")
    del running, generation  # their errors tell where it happened, and so hold what was there
    wait_until(lambda: gc.collect() >= 0 and backend.num_free_tokens() == num_free)
    assert backend.num_airborne == 0


def test_the_end_waits_for_what_is_in_the_air(lab: "Lab", wait_until: Callable[..., None]) -> None:
    backend = Watched()
    engine = lab.open(backend)
    generations = [engine.submit(lab.request(f"prompt {n}", max_tokens=200)) for n in range(20)]
    wait_until(lambda: backend.num_launched > 4)
    engine.close()
    assert backend.num_airborne == 0
    assert all(generation.is_done for generation in generations)


def test_all_get_their_turn_while_others_read(lab: "Lab") -> None:
    engine = lab.open(Watched(), prefill_tokens=16)
    long = [engine.submit(lab.request("abcdefgh" * 10 + str(n), max_tokens=2, priority=n % 2)) for n in range(12)]
    short = [engine.submit(lab.request(f"{n}", max_tokens=30)) for n in range(12)]
    for generation in (*short, *long):
        assert generation.text() is not None
        assert generation.usage.completion_tokens > 0
