"""What was computed leaves the engine and comes back."""

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from understudy.engine import Engine, GenerationRequest
from understudy.errors import EngineError
from understudy.kernels.native import native_module
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_model

if TYPE_CHECKING:
    from conftest import Lab

PERSONA = "You are Bram, and you keep the bridge over the Ouse by night. "
TALK = PERSONA + "Who goes there? A friend. Then pass, friend, and mind the third plank."

Open = Callable[..., Engine]


@pytest.fixture(params=["reference", "cpu-8", "cpu-16"])
def fresh(request: pytest.FixtureRequest, lab: "Lab") -> Open:
    """A new engine with the tiny model, as after a restart."""
    kind, _, bits = str(request.param).partition("-")
    if kind == "cpu" and native_module() is None:
        pytest.skip("the native kernels are not built")
    model = tiny_model()

    def opened(cache_bytes: int | None = None, **options: int) -> Engine:
        if kind == "reference":
            return lab.open(ReferenceBackend(model.config, model.weights), **options)
        return lab.open(
            CpuBackend(model.config, model.weights, kv_bits=int(bits), num_threads=1, cache_bytes=cache_bytes),
            **options,
        )

    return opened


def tokens(engine: Engine, request: GenerationRequest) -> tuple[list[int], int]:
    generation = engine.submit(request)
    return [i for c in generation for i in c.token_ids], generation.usage.cached_tokens


def test_after_a_restart_only_new_tokens_are_read(lab: "Lab", fresh: Open) -> None:
    first = fresh()
    ids, start = lab.ids(TALK), len(PERSONA)
    first.warm(ids).text()
    kept = first.export_prefix(ids, start=start)
    assert kept is not None
    assert kept.token_ids == ids
    assert start - first.backend.block_tokens < kept.start <= start

    request = lab.request(TALK + " Good night!", max_tokens=30, stop_token_ids=frozenset())
    expected, _ = tokens(first, request)
    second = fresh()
    second.warm(ids[: kept.start]).text()
    assert second.import_prefix(kept) == len(ids)
    read = second.stats().prefilled_tokens
    assert read == kept.start
    assert tokens(second, request) == (expected, len(ids))
    assert second.stats().prefilled_tokens - read == len(" Good night!")


def test_without_the_beginning_nothing_is_put_back(lab: "Lab", fresh: Open) -> None:
    first, second = fresh(), fresh()
    ids = lab.ids(TALK)
    first.warm(ids).text()
    kept = first.export_prefix(ids, start=len(PERSONA))
    assert kept is not None
    assert second.import_prefix(kept) == 0
    whole = first.export_prefix(ids)
    assert whole is not None
    assert second.import_prefix(whole) == len(ids)
    assert second.import_prefix(whole) == len(ids)  # it is there already
    assert second.stats().prefilled_tokens == 0


def test_what_is_not_cached_is_not_exported(lab: "Lab", fresh: Open) -> None:
    engine = fresh()
    ids = lab.ids(TALK)
    assert engine.export_prefix(ids) is None
    engine.warm(ids[:40]).text()
    kept = engine.export_prefix(ids)
    assert kept is not None
    assert kept.token_ids == ids[:40]
    assert engine.export_prefix(ids, start=90) is None
    assert engine.export_prefix(ids, max_bytes=0) is None
    size = engine.backend.block_tokens
    limited = engine.export_prefix(ids, max_bytes=kept.pages[0].nbytes)
    assert limited is not None
    assert limited.token_ids == ids[:size]
    np.testing.assert_array_equal(limited.pages, kept.pages[:1])


def test_a_full_cache_makes_room_or_says_how_much_it_took(lab: "Lab") -> None:
    if native_module() is None:
        pytest.skip("the native kernels are not built")
    model = tiny_model()

    def opened(num_pages: int) -> Engine:
        return lab.open(CpuBackend(model.config, model.weights, kv_bits=8, num_threads=1, cache_bytes=num_pages * 5120))

    ids, other = lab.ids(TALK), lab.ids("Nobody sleeps at the mill tonight, and the river is high and brown." * 2)
    first, second, tiny = opened(99), opened(8), opened(4)
    assert first.backend.num_free_tokens() == 99 * 32
    first.warm(ids).text()
    kept = first.export_prefix(ids)
    assert kept is not None
    second.warm(other).text()
    assert second.import_prefix(kept) == len(ids)  # the other conversation, nobody's now, was forgotten
    assert second.export_prefix(other) is None
    assert tiny.import_prefix(kept) == 0


def test_limits_on_past_sequences_hold_for_imported_ones(lab: "Lab", fresh: Open) -> None:
    first, second = fresh(), fresh(prefix_sequences=0)
    ids = lab.ids(TALK)
    first.warm(ids).text()
    kept = first.export_prefix(ids)
    assert kept is not None
    assert second.import_prefix(kept) == 0


def test_foreign_pages_are_refused(lab: "Lab", fresh: Open) -> None:
    engine = fresh()
    ids = lab.ids(TALK)
    engine.warm(ids).text()
    kept = engine.export_prefix(ids)
    assert kept is not None
    for changes, words in (
        ({"kv_format": "cpu-7bit"}, "format"),
        ({"pages": kept.pages[:-1]}, "fit"),
        ({"pages": kept.pages[:, :-1]}, "fit"),
        ({"start": len(ids)}, "fit"),
        ({"start": -32}, "fit"),
        ({"token_ids": (-1, *ids[1:])}, "vocabulary"),
        ({"token_ids": (9999, *ids[1:])}, "vocabulary"),
    ):
        with pytest.raises(EngineError, match=words):
            engine.import_prefix(dataclasses.replace(kept, **changes))  # type: ignore[arg-type]


def test_backends_without_pages_export_nothing(lab: "Lab") -> None:
    engine = lab.saying("Hello")
    engine.submit(lab.request("xyz")).text()
    assert engine.export_prefix(lab.ids("xyz")) is None


def test_a_closed_engine_says_so(lab: "Lab", fresh: Open) -> None:
    engine = fresh()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.export_prefix(lab.ids(TALK))


def test_many_leave_and_come_back_while_others_speak(lab: "Lab", fresh: Open) -> None:
    """Nobody's tokens change, whoever exports, imports and speaks at the same time."""
    engine, lone = fresh(), fresh(prefix_sequences=0)
    talks = [f"{PERSONA}Guest {n} asks: is the bridge open?" for n in range(4)]
    requests = [lab.request(t, max_tokens=6, stop_token_ids=frozenset()) for t in talks]
    expected = [tokens(lone, r)[0] for r in requests]
    wrong: list[int] = []

    def live(n: int) -> None:
        for _ in range(3):
            kept = engine.export_prefix(requests[n].prompt_ids)
            if kept is not None:
                engine.import_prefix(kept)
            if tokens(engine, requests[n])[0] != expected[n]:
                wrong.append(n)

    threads = [threading.Thread(target=live, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
