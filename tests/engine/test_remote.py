"""An engine in a process of its own answers as one in this process does, and outlives its process."""

import asyncio
import dataclasses
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.engine import Chunk, Generation, GenerationRequest, RemoteEngine, SamplingParams
from understudy.errors import ContextLengthError, EngineError, ModelFileError, RequestError
from understudy.model.embedded import embedded_model_path
from understudy.npc.engine_process import start_engine
from understudy.npc.model import Model
from understudy.prompt import Conversation, Message
from understudy.testing import tiny_config, tiny_model

WaitUntil = Callable[[Callable[[], bool]], None]

WAIT_S = 60
BANNED = dict.fromkeys((2, 3, 4, 5, 6, 7), -100.0)  # what ends an answer, and other markers
MINNOW = "You are Minnow, who keeps an inn by the river."


def conversation(line: str) -> Conversation:
    return Conversation(messages=(Message(role="system", content=MINNOW), Message(role="user", content=line)))


def remote(model: Model) -> RemoteEngine:
    assert isinstance(model.engine, RemoteEngine)
    return model.engine


@pytest.fixture(scope="module")
def here() -> Iterator[Model]:
    with Model.load() as model:
        yield model


@pytest.fixture(scope="module")
def there() -> Iterator[Model]:
    with Model.load(own_process=True) as model:
        yield model


@pytest.fixture
def mortal() -> Iterator[Model]:
    """One whose process may be killed."""
    with Model.load(own_process=True) as model:
        yield model


def told(generation: Generation) -> tuple[Any, ...]:
    chunks = list(generation)
    return (
        "".join(chunk.text for chunk in chunks),
        [i for chunk in chunks for i in chunk.token_ids],
        [one for chunk in chunks for one in chunk.logprobs],
        generation.finish_reason,
        generation.usage.prompt_tokens,
        generation.usage.completion_tokens,
        generation.seed,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"stop": ("inn", "e r")},
        {"top_logprobs": 3},
        {"min_tokens": 20},
        {"max_tokens": 1},
        {"reader_interval_s": math.inf},
    ],
)
def test_answers_are_the_same(here: Model, there: Model, seed: int, how: dict[str, Any]) -> None:
    talk = conversation("Good evening! What does a room cost, and who are you?")
    given = {"sampling": SamplingParams(temperature=0.9, top_p=0.9, seed=seed), "max_tokens": 32, **how}
    assert told(there.generate(talk, **given)) == told(here.generate(talk, **given))


def test_penalties_bias_and_the_guard_are_heard(here: Model, there: Model) -> None:
    talk = conversation("Sing the same word again and again.")
    sampling = SamplingParams(
        seed=1, temperature=0, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2, logit_bias=BANNED,
        dry_multiplier=0.8, dry_breakers=here.character_sampling.dry_breakers,
    )  # fmt: skip
    given = {"sampling": sampling, "max_tokens": 60}
    assert told(there.generate(talk, **given)) == told(here.generate(talk, **given))


def test_a_grammar_holds(here: Model, there: Model) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "give_key",
            "parameters": {
                "type": "object",
                "properties": {"room": {"type": "integer", "minimum": 1, "maximum": 9}, "guest": {"type": "string"}},
                "required": ["room", "guest"],
            },
        },
    }
    talk = Conversation(messages=conversation("A room, please.").messages, tools=(tool["function"],))
    found = []
    for model in (here, there):
        constraint = model.call_constraint([tool], choice="required")
        sampling = SamplingParams(temperature=0.9, seed=5)
        found.append(told(model.generate(talk, sampling=sampling, max_tokens=80, constraint=constraint)))
    assert found[0] == found[1]
    assert '"name": "give_key"' in found[0][0]


def test_many_at_once_are_as_each_alone(here: Model, there: Model, wait_until: WaitUntil) -> None:
    talks = [conversation(f"Good evening, I am guest {n}.") for n in range(24)]
    how = [{"sampling": SamplingParams(temperature=0.9, seed=n), "max_tokens": 24} for n in range(24)]
    running = [there.generate(talk, **given) for talk, given in zip(talks, how, strict=True)]  # type: ignore[arg-type]
    together = [told(generation) for generation in running]
    assert together == [told(here.generate(talk, **given)) for talk, given in zip(talks, how, strict=True)]  # type: ignore[arg-type]
    wait_until(lambda: remote(there).stats().num_running == 0)


async def test_asyncio_reads_it_too(here: Model, there: Model) -> None:
    talk, sampling = conversation("Who lives here?"), SamplingParams(temperature=0.5, seed=1)
    texts = await asyncio.gather(*(there.generate(talk, sampling=sampling).atext() for _ in range(4)))
    assert set(texts) == {here.generate(talk, sampling=sampling).text()}


def test_pieces_come_as_often_as_the_reader_looks(there: Model) -> None:
    talk = conversation("Tell me a story.")
    sampling = SamplingParams(temperature=0, logit_bias=BANNED)

    def pieces(interval_s: float) -> list[Chunk]:
        return list(there.generate(talk, sampling=sampling, max_tokens=40, reader_interval_s=interval_s))

    all_alone, rare = pieces(0.0), pieces(math.inf)
    assert len(all_alone) > 30
    assert rare[0].text.strip()  # the first words are not held back
    assert "".join(chunk.text for chunk in rare) == "".join(chunk.text for chunk in all_alone)


def test_figures_are_those_of_the_other_side(wait_until: WaitUntil) -> None:
    with Model.load(own_process=True) as there, Model.load() as here:
        for model in (there, here):
            for line in ("Good evening!", "Who are you?"):
                model.generate(conversation(line), sampling=SamplingParams(seed=1), max_tokens=9).text()
        wait_until(lambda: there.engine.stats() == here.engine.stats())
        assert there.engine.stats().cached_tokens > 0
        assert there.engine.facts == here.engine.facts
        assert there.engine.config == here.engine.config


def test_vectors_are_the_same(here: Model, there: Model) -> None:
    texts = [here.files.tokenizer.encode(text) for text in ("The inn.", "A river runs by the old mill.")]
    assert np.array_equal(there.engine.embed(texts), here.engine.embed(texts))


def test_vectors_that_nobody_wants_end(there: Model) -> None:
    texts = [[100 + n % 50] * 2000 for n in range(40)]
    began = time.monotonic()
    vectors = there.engine.embed(texts, is_cancelled=lambda: time.monotonic() > began + 0.1)
    assert vectors.shape == (40, 256)
    assert np.isnan(vectors).sum() == 0


def test_what_was_read_leaves_and_comes_back(here: Model) -> None:
    ids = tuple(here.encode(conversation("Tell me of the Great Rise, and of the mill, and of the bridge over it.")))
    here.engine.warm(ids).text()
    wanted = here.engine.export_prefix(ids)
    with Model.load(own_process=True) as first:
        assert first.engine.export_prefix(ids) is None
        first.engine.warm(ids, priority=0).text()
        kept = first.engine.export_prefix(ids)
    assert kept is not None
    assert wanted is not None
    assert np.array_equal(kept.pages, wanted.pages)
    with Model.load(own_process=True) as second:
        assert second.engine.import_prefix(kept) == len(kept.token_ids)
        generation = second.engine.submit(GenerationRequest(prompt_ids=(*ids, 100), max_tokens=1))
        generation.text()
        assert generation.usage.cached_tokens == len(kept.token_ids)
        with pytest.raises(EngineError, match="pages"):
            second.engine.import_prefix(dataclasses.replace(kept, pages=kept.pages[:, :-1]))


def test_who_leaves_frees_the_place(there: Model, wait_until: WaitUntil) -> None:
    sampling = SamplingParams(temperature=0, logit_bias=BANNED)
    long = [there.generate(conversation(f"Talk, {n}!"), sampling=sampling) for n in range(3)]
    stays = there.generate(conversation("And you?"), sampling=sampling, max_tokens=50)
    assert next(iter(long[0])).token_ids
    for generation in long:
        generation.cancel()
    assert [generation.finish_reason for generation in long] == ["cancelled"] * 3
    assert stays.text()
    wait_until(lambda: remote(there).stats().num_running == 0)


def test_a_deadline_ends_an_answer(there: Model) -> None:
    sampling = SamplingParams(temperature=0, logit_bias=BANNED)
    generation = there.generate(conversation("Talk for ever."), sampling=sampling, deadline_s=0.1)
    assert generation.text()
    assert generation.finish_reason == "deadline"


def test_faults_are_those_of_an_engine_here(there: Model) -> None:
    engine = there.engine
    with pytest.raises(ContextLengthError):
        engine.submit(GenerationRequest(prompt_ids=(5,) * 5000))
    with pytest.raises(RequestError, match="token ids"):
        engine.submit(GenerationRequest(prompt_ids=(8192,)))
    with pytest.raises(RequestError, match="at least one token"):
        engine.embed([[]])
    with pytest.raises(EngineError, match="own_process"):
        _ = there.backend


def test_a_killed_process_is_started_anew(
    mortal: Model, caplog: pytest.LogCaptureFixture, wait_until: WaitUntil
) -> None:
    talk, sampling = conversation("Who are you?"), SamplingParams(temperature=0, logit_bias=BANNED)
    engine = remote(mortal)
    ended: list[Generation] = []
    engine.on_done = ended.append
    before = mortal.generate(talk, sampling=sampling, max_tokens=20).text()
    running = [mortal.generate(talk, sampling=sampling) for _ in range(4)]
    pid = engine.pid
    with caplog.at_level(logging.ERROR, "understudy"):
        os.kill(pid, signal.SIGKILL)
        for generation in running:
            with pytest.raises(EngineError, match="not complete"):
                generation.text()
        wait_until(lambda: engine.absence is None)
    assert "started anew" in caplog.text
    assert engine.pid != pid
    assert engine.facts.backend
    assert mortal.generate(talk, sampling=sampling, max_tokens=20).text() == before
    wait_until(lambda: len(ended) == 6)


@pytest.mark.skipif(sys.platform != "linux", reason="only there the pipe is made larger")
def test_one_that_is_held_up_holds_up_nobody_here(mortal: Model) -> None:
    """As a machine without memory would: what is asked meanwhile waits, and whoever asks does not."""
    engine = remote(mortal)
    talk = conversation("Tell me of the river. " * 100)
    os.kill(engine.pid, signal.SIGSTOP)
    began = time.monotonic()
    running = [mortal.generate(talk, max_tokens=2, sampling=SamplingParams(seed=n)) for n in range(64)]
    assert time.monotonic() - began < 5
    assert engine.stats().num_waiting == 64
    running[0].cancel()
    os.kill(engine.pid, signal.SIGCONT)
    assert all(generation.text() is not None for generation in running[1:])
    assert running[1].usage.prompt_tokens > 400


def test_what_takes_a_while_fails_with_the_process(mortal: Model) -> None:
    engine = remote(mortal)
    failures: list[Exception] = []

    def embed() -> None:
        try:
            engine.embed([[100] * 4000] * 200)
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    time.sleep(0.3)
    os.kill(engine.pid, signal.SIGKILL)
    thread.join(WAIT_S)
    assert len(failures) == 1


def test_while_it_starts_nothing_is_taken(mortal: Model, wait_until: WaitUntil) -> None:
    engine = remote(mortal)
    os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: engine.absence is not None)
    with pytest.raises(EngineError, match="started anew"):
        mortal.generate(conversation("Hello?"))


def test_one_that_ends_again_and_again_is_given_up(mortal: Model, wait_until: WaitUntil) -> None:
    engine = remote(mortal)
    for _ in range(3):
        wait_until(lambda: engine.absence is None)
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: engine.absence is not None)
    time.sleep(1)  # had it been started once more, it would be there by now
    with pytest.raises(EngineError, match="again and again"):
        mortal.generate(conversation("Hello?"))


def test_a_closed_one_says_so() -> None:
    model = Model.load(own_process=True)
    engine = remote(model)
    running = model.generate(conversation("Talk."), sampling=SamplingParams(temperature=0, logit_bias=BANNED))
    assert next(iter(running)).token_ids
    unread = model.generate(conversation("Talk."), sampling=SamplingParams(temperature=0, logit_bias=BANNED))
    pid = engine.pid
    model.close()
    model.close()
    with pytest.raises(EngineError, match="closed"):
        unread.text()
    with pytest.raises(EngineError, match="is closed"):
        model.generate(conversation("Hello?"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_signals_to_all_processes_of_a_terminal_do_not_end_it(there: Model) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(remote(there).pid, one)
    assert there.generate(conversation("Still here?"), max_tokens=4).usage.prompt_tokens
    assert there.engine.absence is None


def test_a_model_that_cannot_be_loaded_is_told_as_here(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no backend 'abacus'"):
        Model.load(backend="abacus", own_process=True)
    none = tmp_path / "none.gguf"
    files = dataclasses.replace(tiny_model(), path=tmp_path)
    engine = start_engine(files, path=none, adapter=None, backend="auto", gpu=None)
    with pytest.raises(ModelFileError, match="no model at"):
        engine.wait()


def test_a_file_that_was_replaced_is_not_taken_for_the_old_one(tmp_path: Path, wait_until: WaitUntil) -> None:
    """The two processes would not mean the same by a token, and saved keys and values would be wrong."""
    path = tmp_path / "harrow.gguf"
    shutil.copy(embedded_model_path(), path)
    with Model.load(path, own_process=True) as model:
        engine = remote(model)
        shutil.copy(embedded_model_path(), tmp_path / "other")
        (tmp_path / "other").replace(path)
        assert model.generate(conversation("Hello!"), max_tokens=4).text()
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: isinstance(engine.absence, ModelFileError))
        with pytest.raises(ModelFileError, match="another file now"):
            model.generate(conversation("Hello!"))


def test_a_program_that_is_none_is_told() -> None:
    config = tiny_config()
    with pytest.raises(EngineError, match="cannot be started"):
        RemoteEngine(["/nowhere/python"], {}, config=config)
    engine = RemoteEngine([sys.executable, "-c", "raise SystemExit(7)"], {}, config=config)
    with pytest.raises(EngineError, match="status 7 before it was ready"):
        engine.wait()
    with pytest.raises(EngineError, match="closed"):
        engine.submit(GenerationRequest(prompt_ids=(1,)))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at the process through /proc")
def test_it_ends_with_the_process_that_started_it(wait_until: WaitUntil) -> None:
    code = (
        "import time; from understudy.npc.model import Model\n"
        "model = Model.load(own_process=True); print(model.engine.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        pid = int(parent.stdout.readline())
        parent.kill()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_no_file_of_the_current_folder_is_taken_for_a_module(tmp_path: Path) -> None:
    (tmp_path / "logging.py").write_text("raise RuntimeError('not this one')")
    code = "from understudy.npc.model import Model\nwith Model.load(own_process=True) as model: print(model.engine.pid)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout)


def test_closing_does_not_wait_for_what_takes_a_while() -> None:
    model = Model.load(own_process=True)
    failures: list[Exception] = []

    def embed() -> None:
        try:
            model.engine.embed([[100] * 4000] * 400)
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 5
    thread.join(WAIT_S)
    assert len(failures) == 1


def test_small_models_have_a_process_of_their_own_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    with Model.load(own_process=None) as small:
        assert isinstance(small.engine, RemoteEngine)
    with monkeypatch.context() as frozen:
        frozen.setattr(sys, "frozen", True, raising=False)
        with Model.load(own_process=None) as alone:
            assert not isinstance(alone.engine, RemoteEngine)
        with pytest.raises(EngineError, match="no Python here"):
            Model.load(own_process=True)
    monkeypatch.setattr("understudy.npc.model._LARGE_BYTES", 1000)
    with Model.load(own_process=None) as large:
        assert not isinstance(large.engine, RemoteEngine)
