import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from understudy.engine import Chunk, EngineOptions, GenerationRequest, SamplingParams
from understudy.errors import ContextLengthError, EngineError, RequestError
from understudy.testing import tiny_config

if TYPE_CHECKING:
    from conftest import Lab

    WaitUntil = Callable[[Callable[[], bool]], None]


def test_chunks_text_and_usage(lab: "Lab") -> None:
    generation = lab.saying("Hi é").submit(lab.request("x"))
    chunks = list(generation)
    assert [c.text for c in chunks] == ["H", "i", " ", "é", ""]
    assert [i for c in chunks for i in c.token_ids] == [*lab.ids("Hi é"), 3]
    assert [c.finish_reason for c in chunks] == [None] * 4 + ["stop"]
    assert (generation.usage.prompt_tokens, generation.usage.completion_tokens) == (1, 6)
    assert generation.finish_reason == "stop"
    assert list(generation) == []


def test_stop_string_is_cut(lab: "Lab") -> None:
    generation = lab.saying("Go home. User: no").submit(lab.request(stop=("zz", "\nUser", " User:")))
    assert generation.text() == "Go home."
    assert generation.finish_reason == "stop"


def test_max_tokens(lab: "Lab") -> None:
    generation = lab.saying("Hello").submit(lab.request(max_tokens=3))
    assert list(generation)[-1] == Chunk("l", lab.ids("l"), "length")
    assert generation.usage.completion_tokens == 3


def test_min_tokens_come_before_the_end(lab: "Lab") -> None:
    engine = lab.scripted(lambda ids: 3)  # which would always rather end
    assert engine.submit(lab.request()).text() == ""
    generation = engine.submit(lab.request(min_tokens=2))
    generation.text()
    assert generation.usage.completion_tokens == 3 and generation.finish_reason == "stop"
    full = engine.submit(lab.request(min_tokens=2, max_tokens=2))
    full.text()
    assert full.usage.completion_tokens == 2 and full.finish_reason == "length"


def test_what_is_barred_never_comes(lab: "Lab") -> None:
    call = lab.tokenizer.special_id("<toolcall>")
    assert call is not None
    engine = lab.scripted(lambda ids: call if len(ids) < 4 else 3)
    for temperature in (0.0, 1.5):
        sampling = SamplingParams(temperature=temperature, seed=4)
        barred = engine.submit(lab.request("x", barred_token_ids=frozenset({call}), sampling=sampling))
        ids = [token_id for chunk in barred for token_id in chunk.token_ids]
        assert call not in ids and len(ids) == 4 and ids[-1] == 3


def test_text_held_back_comes_at_the_end(lab: "Lab") -> None:
    engine = lab.saying("wait <")
    assert engine.submit(lab.request(stop=("<end>",))).text() == "wait <"
    assert engine.submit(lab.request(stop=("<end>",), max_tokens=6)).text() == "wait <"


def test_tool_call_markers_show_where_asked_for(lab: "Lab") -> None:
    call = lab.tokenizer.special_id("<toolcall>")
    assert call is not None
    engine = lab.scripted(lambda ids: [call, *lab.ids("{}"), 3][len(ids) - 1])
    assert engine.submit(lab.request()).text() == "{}"
    assert engine.submit(lab.request(visible_specials={call: "<toolcall>"})).text() == "<toolcall>{}"


def test_context_limit(lab: "Lab") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), tiny_config(max_position_embeddings=8))
    with pytest.raises(ContextLengthError, match="maximum context length is 8 tokens"):
        engine.submit(lab.request("123456789"))
    full = engine.submit(lab.request("12345678"))
    assert list(full) == [Chunk("", (), "length")]
    assert full.usage.completion_tokens == 0
    clamped = engine.submit(lab.request("123456", max_tokens=99))
    assert clamped.text() == "AA"
    assert clamped.finish_reason == "length"
    assert engine.submit(lab.request("12345")).text() == "AAA"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_ids": ()}, "messages"),
        ({"prompt_ids": (9999,)}, "messages"),
        ({"prompt_ids": (-1,)}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"stop": "word"}, "stop"),
        ({"sampling": SamplingParams(logit_bias={9999: 1})}, "logit_bias"),
    ],
)
def test_bad_requests(lab: "Lab", fields: dict[str, Any], param: str) -> None:
    engine = lab.saying("x")
    with pytest.raises(RequestError) as caught:
        engine.submit(lab.request(**fields))
    assert caught.value.param == param


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="max_running"):
        EngineOptions(max_running=0)


def test_a_seed_that_was_drawn_is_recorded(lab: "Lab") -> None:
    engine = lab.real()
    first = engine.submit(lab.request(sampling=SamplingParams(), max_tokens=20))
    text = first.text()
    again = engine.submit(lab.request(sampling=SamplingParams(seed=first.seed), max_tokens=20))
    other = engine.submit(lab.request(sampling=SamplingParams(), max_tokens=20))
    assert text == again.text() != other.text()


def test_requests_share_steps_and_prefill_is_chunked(lab: "Lab") -> None:
    engine = lab.saying("abcdefgh", prefill_tokens=4)
    backend = lab.backends[0]
    backend.gate.clear()
    short, long = engine.submit(lab.request("x")), engine.submit(lab.request("0123456789", max_tokens=2))
    backend.gate.set()
    short.text(), long.text()
    # The long prompt goes in by fours beside the other's single tokens. A prompt that joins first may be alone.
    assert [max(step) for step in backend.steps if max(step) > 1] == [4, 4, 2]
    assert sum(len(step) == 2 for step in backend.steps) >= 3


def test_requests_wait_for_their_turn(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.saying("abc", max_running=2)
    lab.backends[0].gate.clear()
    generations = [engine.submit(lab.request()) for _ in range(5)]
    wait_until(lambda: engine.stats().num_running > 0)
    assert engine.stats().num_running + engine.stats().num_waiting == 5
    generations[4].cancel()
    assert engine.stats().num_running + engine.stats().num_waiting == 4
    lab.backends[0].gate.set()
    assert [g.text() for g in generations] == ["abc"] * 4 + [""]
    assert all(len(step) <= 2 for step in lab.backends[0].steps)
    wait_until(lambda: engine.stats().num_running == 0)
    assert (engine.stats().generated_tokens, engine.stats().prompt_tokens) == (16, 4)


def test_many_threads(lab: "Lab") -> None:
    engine = lab.saying("The bridge is shut.")
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(engine.submit(lab.request()).text())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert texts == ["The bridge is shut."] * 20


# Cancel


def test_cancel_ends_the_reader_at_once(lab: "Lab", wait_until: "WaitUntil") -> None:
    def slowly(_ids: Any) -> int:
        time.sleep(0.002)  # so that the answer is not complete before the reader wakes
        return lab.byte(65)

    engine = lab.scripted(slowly)
    generation = engine.submit(lab.request())
    chunks = iter(generation)
    next(chunks)
    lab.backends[0].gate.clear()  # the model hangs in a step, the reader does not
    generation.cancel()
    assert list(chunks)[-1].finish_reason == "cancelled"
    assert engine.stats().num_running == 0
    lab.backends[0].gate.set()
    wait_until(lambda: not engine._running)
    num_steps = len(lab.backends[0].steps)
    time.sleep(0.02)
    assert len(lab.backends[0].steps) == num_steps
    generation.cancel()
    assert generation.finish_reason == "cancelled"


def test_cancel_in_the_middle_of_prefill(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.scripted(lambda ids: lab.byte(65), prefill_tokens=2)
    lab.backends[0].gate.clear()
    generation = engine.submit(lab.request("x" * 1000))
    wait_until(lambda: len(lab.backends[0].steps) > 0)
    generation.cancel()
    lab.backends[0].gate.set()
    wait_until(lambda: not engine._running)
    assert len(lab.backends[0].steps) == 1
    assert generation.usage.completion_tokens == 0
    assert engine.submit(lab.request("x" * 1000, max_tokens=1)).usage is not None


def test_leaving_the_loop_cancels(lab: "Lab") -> None:
    def slowly(_ids: list[int]) -> int:
        time.sleep(0.01)  # else the answer is at its end before the reader is out of the loop
        return lab.byte(65)

    generation = lab.scripted(slowly).submit(lab.request())
    for _ in generation:
        break
    gc.collect()
    assert generation.finish_reason == "cancelled"


# asyncio


def test_async_iteration(lab: "Lab") -> None:
    engine = lab.saying("Hello")

    async def main() -> None:
        generations = [engine.submit(lab.request()) for _ in range(3)]
        assert await asyncio.gather(*(g.atext() for g in generations)) == ["Hello"] * 3
        assert [c.text async for c in engine.submit(lab.request())] == [*"Hello", ""]

    asyncio.run(main())


def test_the_event_loop_never_waits_for_the_model(lab: "Lab") -> None:
    engine = lab.saying("Hello")
    lab.backends[0].gate.clear()

    async def main() -> str:
        generation = engine.submit(lab.request())
        reader = asyncio.create_task(generation.atext())
        await asyncio.sleep(0.05)
        engine.stats()
        engine.submit(lab.request()).cancel()
        lab.backends[0].gate.set()  # a blocked loop would never come here
        return await reader

    assert asyncio.run(main()) == "Hello"


@pytest.mark.parametrize("how", ["break", "aclose", "task"])
def test_an_abandoned_async_iterator_cancels(lab: "Lab", how: str) -> None:
    # A step takes its time, so that the context is not full before a slow machine's reader wakes.
    generation = lab.scripted(lambda ids: time.sleep(0.003) or lab.byte(65)).submit(lab.request())

    async def read() -> None:
        async for _ in generation:
            if how == "break":
                break

    async def main() -> None:
        if how == "break":
            await read()
        elif how == "aclose":
            chunks = aiter(generation)
            await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]
        else:
            task = asyncio.create_task(read())
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert generation.finish_reason == "cancelled"


def test_a_reader_whose_loop_is_gone_does_not_stop_the_model(lab: "Lab") -> None:
    engine = lab.saying("Hello")
    lab.backends[0].gate.clear()
    generation = engine.submit(lab.request())
    loop = asyncio.new_event_loop()
    generation._sleepers.append((loop, asyncio.Event()))
    loop.close()
    lab.backends[0].gate.set()
    assert generation.text() == "Hello"


# Failures


def test_nan_fails_only_its_own_request(lab: "Lab") -> None:
    bad = lab.byte(ord("!"))
    engine = lab.scripted(lambda ids: -1 if ids[0] == bad else (lab.byte(65) if len(ids) < 4 else 3))
    good, broken = engine.submit(lab.request("x")), engine.submit(lab.request("!"))
    with pytest.raises(EngineError, match="not numbers"):
        broken.text()
    assert good.text() == "AAA"
    assert broken.finish_reason is None
    assert broken.is_done


def test_a_failing_backend_fails_what_is_in_flight_and_no_more(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.saying("Hello")
    backend = lab.backends[0]
    backend.failure = MemoryError("no room")
    generations = [engine.submit(lab.request()) for _ in range(3)]
    for generation in generations:
        with pytest.raises(EngineError, match="scripted backend failed: MemoryError"):
            generation.text()
    backend.failure = None
    assert engine.submit(lab.request()).text() == "Hello"
    assert engine.submit(lab.request()).usage.cached_tokens == 0  # no cache of a failed step was kept


def test_no_cache_can_be_made(lab: "Lab") -> None:
    engine = lab.saying("Hello")
    backend = lab.backends[0]
    new_cache, backend.new_cache = backend.new_cache, lambda: 1 // 0  # type: ignore[assignment,method-assign]
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        engine.submit(lab.request()).text()
    backend.new_cache = new_cache  # type: ignore[method-assign]
    assert engine.submit(lab.request()).text() == "Hello"


def test_async_reader_gets_the_error(lab: "Lab") -> None:
    engine = lab.saying("Hello")
    lab.backends[0].failure = ValueError("odd")
    with pytest.raises(EngineError, match="odd"):
        asyncio.run(engine.submit(lab.request()).atext())


def test_close(lab: "Lab", wait_until: "WaitUntil") -> None:
    def slowly(_ids: Any) -> int:
        time.sleep(0.01)
        return lab.byte(65)

    with lab.scripted(slowly, max_running=1) as engine:
        running, waiting = engine.submit(lab.request()), engine.submit(lab.request())
        stream = iter(running)  # dropped, it would cancel the request
        next(stream)
    for generation in (running, waiting):
        if generation.finish_reason != "cancelled":
            with pytest.raises(EngineError, match="closed before"):
                generation.text()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.submit(lab.request())
    assert not engine._thread.is_alive()


# Equivalence: the tiny random model


def tokens(engine: Any, request: GenerationRequest) -> list[int]:
    return [i for c in engine.submit(request) for i in c.token_ids]


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(seed=11, top_p=0.95)])
def test_alone_batched_chunked_cold_and_warm_are_the_same(lab: "Lab", sampling: SamplingParams) -> None:
    prompts = ["Who keeps the bridge?", "A" * 70, "Tell me of the mill and of the river, please."]
    requests = [lab.request(p, sampling=sampling, max_tokens=24, stop_token_ids=frozenset()) for p in prompts]
    alone = [tokens(lab.real(prefix_sequences=0), r) for r in requests]
    assert len({tuple(a) for a in alone}) == 3

    batched = lab.real()
    generations = [batched.submit(r) for r in requests]
    assert [[i for c in g for i in c.token_ids] for g in generations] == alone
    assert [tokens(batched, r) for r in requests] == alone  # warm
    assert batched.stats().cached_tokens > 0
    assert [tokens(lab.real(prefill_tokens=7), r) for r in requests] == alone


def test_a_chats_second_turn_computes_only_what_is_new(lab: "Lab") -> None:
    engine = lab.real()
    first = engine.submit(lab.request("You are Bram. User: Hello!", max_tokens=10, stop_token_ids=frozenset()))
    said = [i for c in first for i in c.token_ids]
    prompt = (*lab.ids("You are Bram. User: Hello!"), *said, *lab.ids(" User: And the mill?"))
    request = lab.request(prompt_ids=prompt, max_tokens=10, stop_token_ids=frozenset())
    second = engine.submit(request)
    warm = [i for c in second for i in c.token_ids]
    assert second.usage.cached_tokens == 26 + 9  # all but the last token drawn, which was never computed
    assert warm == tokens(lab.real(), request)


def test_a_beginning_that_comes_many_times_at_once_is_read_once(lab: "Lab") -> None:
    persona = "You keep the inn by the bridge, and you know everybody. " * 2
    questions = [f"{persona}Guest {number}: is there a bed?" for number in range(5)]
    requests = [lab.request(q, max_tokens=6, stop_token_ids=frozenset()) for q in questions]
    engine = lab.real(prefill_tokens=16)
    generations = [engine.submit(r) for r in requests]
    assert [[i for c in g for i in c.token_ids] for g in generations] == [tokens(lab.real(), r) for r in requests]
    assert [g.usage.cached_tokens >= len(persona) for g in generations] == [False, True, True, True, True]


def test_what_is_computed_is_shared_by_all(lab: "Lab") -> None:
    engine = lab.real()
    request = lab.request("The same question to all.", max_tokens=20, stop_token_ids=frozenset())
    expected = tokens(engine, request)
    generations = [engine.submit(request) for _ in range(4)]
    assert [[i for c in g for i in c.token_ids] for g in generations] == [expected] * 4
    assert {g.usage.cached_tokens for g in generations} == {len(request.prompt_ids) - 1}


def test_a_full_cache_drops_the_past_first_then_the_newest_request(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.scripted(lambda ids: lab.byte(0x41 + len(ids) % 26))
    backend = lab.backends[-1]
    assert tokens(engine, lab.request("The past.", max_tokens=4))
    backend.gate.clear()
    held = engine.submit(lab.request("Hold.", max_tokens=1))
    wait_until(lambda: engine.stats().num_running == 1)  # the next two are then read in one step
    first = engine.submit(lab.request("An old request.", max_tokens=4))
    second = engine.submit(lab.request("A new request.", max_tokens=4))
    backend.num_free = 25
    backend.gate.set()
    assert held.text() and first.text()
    with pytest.raises(EngineError, match="memory"):
        second.text()
    backend.num_free = None
    assert tokens(engine, lab.request("A new request.", max_tokens=4))


def test_a_cancelled_requests_cache_is_sound(lab: "Lab", wait_until: "WaitUntil") -> None:
    engine = lab.real(prefill_tokens=16)
    prompt = "Long ago, at the ford, " * 20
    generation = engine.submit(lab.request(prompt))
    wait_until(lambda: any(s.cache.length for s in engine._running))
    generation.cancel()
    wait_until(lambda: not engine._running)
    request = lab.request(prompt, max_tokens=30, stop_token_ids=frozenset())
    again = engine.submit(request)
    assert [i for c in again for i in c.token_ids] == tokens(lab.real(), request)
    assert again.usage.cached_tokens > 0


def test_a_higher_priority_starts_first(lab: "Lab") -> None:
    seen: list[int] = []
    engine = lab.scripted(lambda ids: seen.append(ids[0]) or 3, max_running=1)  # type: ignore[func-returns-value]
    backend = lab.backends[-1]
    backend.gate.clear()
    generations = [engine.submit(lab.request("r"))]
    time.sleep(0.05)
    generations += [engine.submit(lab.request(c, priority=p)) for c, p in (("l", 0), ("h", 5), ("m", 2))]
    backend.gate.set()
    assert [g.text() for g in generations] == [""] * 4
    assert [chr(i - lab.byte(0)) for i in seen] == ["r", "h", "m", "l"]


def test_a_deadline_ends_the_answer_with_what_it_has(lab: "Lab") -> None:
    engine = lab.saying("a" * 4000)
    backend = lab.backends[-1]
    slow = backend.forward
    backend.forward = lambda batch: (time.sleep(0.005), slow(batch))[1]  # type: ignore[method-assign]
    generation = engine.submit(lab.request("x", deadline_s=0.2))
    text = generation.text()
    assert generation.finish_reason == "deadline"
    assert 1 <= len(text) < 200
    backend.gate.clear()
    engine.submit(lab.request("x"))
    late = engine.submit(lab.request("x", deadline_s=0.001))
    time.sleep(0.01)
    backend.gate.set()
    assert len(late.text()) <= 1
    assert late.finish_reason == "deadline"
    with pytest.raises(RequestError, match="deadline_s"):
        lab.request("x", deadline_s=0)


def test_a_quota_slows_its_owner_and_nobody_else(lab: "Lab") -> None:
    engine = lab.saying("a" * 30, owner_tokens_per_s=100)  # type: ignore[arg-type]
    began = time.monotonic()
    greedy = [engine.submit(lab.request("x", owner="greedy")) for _ in range(5)]
    modest = engine.submit(lab.request("x", owner="modest"))
    assert modest.text() == "a" * 30
    modest_s = time.monotonic() - began
    assert all(g.text() == "a" * 30 for g in greedy)
    assert time.monotonic() - began > 0.4  # 155 tokens, of which 100 at once
    assert modest_s < 0.3


def test_many_threads_may_ask_while_others_wait(lab: "Lab") -> None:
    engine = lab.scripted(lambda ids: 3, max_running=1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # a thread is interrupted wherever it can be
    try:
        askers = [
            threading.Thread(target=lambda: [engine.submit(lab.request()) for _ in range(1500)]) for _ in range(4)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    finally:
        sys.setswitchinterval(interval)
    engine.close()  # a model thread that died is an error of the test
