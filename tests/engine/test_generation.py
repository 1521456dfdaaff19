import asyncio
import itertools
import math
import threading
import time
from typing import Any

import pytest

from understudy.engine import Chunk, Generation
from understudy.engine.logprobs import TokenLogprob
from understudy.errors import EngineError

LONG_S = 300.0  # nobody waits for so long: what comes, came before


def generation(interval_s: float = 0.0) -> Generation:
    made = Generation(seed=1, num_prompt_tokens=1)
    made.chunk_interval_s = interval_s
    return made


def piece(text: str, reason: Any = None) -> Chunk:
    token_id = ord(text)
    return Chunk(text, (token_id,), reason, (TokenLogprob(token_id, -0.5, ()),))


def say(made: Generation, text: str, reason: Any = None) -> None:
    for letter in text[:-1]:
        assert made.deliver(piece(letter))
    assert made.deliver(piece(text[-1], reason))


def test_without_an_interval_each_chunk_is_alone() -> None:
    made = generation()
    say(made, "abc", "stop")
    assert list(made) == [piece("a"), piece("b"), piece("c", "stop")]


def test_the_first_chunk_comes_at_once_and_the_end_is_not_waited_for() -> None:
    made = generation(LONG_S)
    chunks = iter(made)
    say(made, "a")
    assert next(chunks) == piece("a")
    say(made, "bcd", "stop")
    (rest,) = chunks
    assert (rest.text, rest.token_ids, rest.finish_reason) == ("bcd", (98, 99, 100), "stop")
    assert [entry.token_id for entry in rest.logprobs] == [98, 99, 100]


async def test_an_event_loop_sleeps_while_chunks_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generation(LONG_S)
    loop = asyncio.get_running_loop()
    wake, num_wakes = loop.call_soon_threadsafe, itertools.count()

    def counted(*arguments: Any) -> Any:
        next(num_wakes)
        return wake(*arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    chunks = aiter(made)
    say(made, "a")
    assert await anext(chunks) == piece("a")
    reading = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)

    def talk() -> None:
        say(made, "b" * 100)
        say(made, "c", "length")

    thread = threading.Thread(target=talk)
    thread.start()
    async with asyncio.timeout(20):
        last = await reading
    thread.join()
    assert (last.text, last.finish_reason) == ("b" * 100 + "c", "length")
    assert next(num_wakes) == 1
    assert [chunk async for chunk in made] == []


@pytest.mark.parametrize("interval_s", [0.05, 0.2])
async def test_what_gathers_comes_after_the_interval_without_more_from_the_model(interval_s: float) -> None:
    made = generation(interval_s)
    chunks = aiter(made)
    say(made, "a")
    began = time.monotonic()
    async with asyncio.timeout(20):
        await anext(chunks)
        say(made, "bc")
        assert (await anext(chunks)).text == "bc"
        assert time.monotonic() - began >= interval_s
    made.cancel()


def test_a_thread_waits_for_the_interval_too() -> None:
    made = generation(0.1)
    chunks = iter(made)
    say(made, "a")
    next(chunks)
    began = time.monotonic()
    say(made, "bc")
    assert next(chunks).text == "bc"
    assert time.monotonic() - began >= 0.05


async def test_a_slow_model_is_not_waited_for_once_the_interval_is_over() -> None:
    made = generation(0.01)
    chunks = aiter(made)
    async with asyncio.timeout(20):
        for letter in "abc":
            reading = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0.05)  # the interval is over, and the reader sleeps
            assert not reading.done()
            threading.Thread(target=say, args=(made, letter)).start()
            assert await reading == piece(letter)
    made.cancel()


async def test_an_interval_set_after_the_first_chunk_counts_from_it() -> None:
    made = generation()
    chunks = aiter(made)
    say(made, "a")
    await anext(chunks)
    made.chunk_interval_s = LONG_S
    say(made, "b")
    reading = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0.02)
    assert not reading.done()
    say(made, "c", "stop")
    async with asyncio.timeout(20):
        assert (await reading).text == "bc"


@pytest.mark.parametrize("fails", [False, True])
async def test_cancelling_and_failing_end_the_wait(fails: bool) -> None:
    made = generation(LONG_S)
    chunks = aiter(made)
    say(made, "a")
    await anext(chunks)
    say(made, "b")
    reading = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    if fails:
        made.fail(EngineError("It broke."))
    else:
        made.cancel()
    async with asyncio.timeout(20):
        assert (await reading).text == "b"
        if fails:
            with pytest.raises(EngineError, match="It broke"):
                await anext(chunks)


async def test_a_reader_of_the_whole_is_woken_once() -> None:
    made = generation(math.inf)
    reading = asyncio.ensure_future(made.atext())
    await asyncio.sleep(0)
    say(made, "abc")
    await asyncio.sleep(0.02)
    assert not reading.done()
    say(made, "d", "stop")
    async with asyncio.timeout(20):
        assert await reading == "abcd"
