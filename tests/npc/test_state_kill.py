"""Save, kill, restore: a process that dies without warning, and another that goes on where it was."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from understudy.engine import Engine, GenerationRequest, KvLayout, SamplingParams
from understudy.model.native_backend import CpuBackend, why_not_native
from understudy.model.transformer import ReferenceBackend
from understudy.npc.fingerprint import ModelFingerprint
from understudy.npc.model import Model
from understudy.npc.state import KV_SHARE, RandomState, kv_limit, load_state, planned_size, restore_kv, save_state
from understudy.npc.world import default_world
from understudy.prompt import Conversation, Message

LINES = (
    "Good evening! What a night.",
    "Who are you, and what do you do here?",
    "My name is Mara, and I lost my way in the fog.",
    "Have you seen a red lantern by the river?",
    "What does it cost to sleep here?",
    "Tell me about the bridge.",
    "I have six pennies and a wet coat.",
)
LAST_LINE = "Tell me more about that, please, all that you know."
NUM_NEXT = 64


class Stage:
    """The embedded model, with a new engine whenever one asks: as much as a new process holds."""

    def __init__(self, kv_bits: int) -> None:
        with Model.load(backend="reference") as model:  # for its template and its files
            self.model = model
        config, weights = model.files.config, model.files.weights
        self.backend = (
            ReferenceBackend(config, weights)
            if why_not_native(config)
            else CpuBackend(config, weights, kv_bits=kv_bits, num_threads=1)
        )
        self.fingerprint = ModelFingerprint.of(model.files, KvLayout.of(self.backend))

    def engine(self) -> Engine:
        return Engine(self.backend, self.model.files.tokenizer)

    def prompt(self, messages: list[Any]) -> tuple[int, ...]:
        return tuple(self.model.encode(Conversation(messages=tuple(Message(**m) for m in messages))))


def sampling_of(number: int, chance: RandomState) -> SamplingParams:
    """Greedy for every second session, seeded for the others."""
    return SamplingParams(temperature=(number % 2) * 0.8, top_p=0.95, seed=chance.next_seed())


def continuation(stage: Stage, engine: Engine, number: int, document: dict[str, Any]) -> tuple[list[int], int]:
    """The next 64 tokens, and how many of the prompt's were cached."""
    prompt = stage.prompt([*document["messages"], {"role": "user", "content": LAST_LINE}])
    sampling = sampling_of(number, RandomState.from_json(document["random"]))
    generation = engine.submit(GenerationRequest(prompt_ids=prompt, sampling=sampling, max_tokens=NUM_NEXT))
    return [i for chunk in generation for i in chunk.token_ids], generation.usage.cached_tokens


def live(stage: Stage, engine: Engine, number: int) -> dict[str, Any]:
    """A session of three to eight exchanges with one of the characters."""
    cards = default_world().characters
    system = cards[number % len(cards)].instructions("Mara")
    messages = [{"role": "system", "content": system}]
    chance = RandomState(seed=number)
    for turn in range(8 - number % 6):
        messages.append({"role": "user", "content": LINES[(number + turn) % len(LINES)]})
        request = GenerationRequest(
            prompt_ids=stage.prompt(messages),
            sampling=sampling_of(number, chance),
            stop_token_ids=frozenset({3}),
            max_tokens=24,
        )
        messages.append({"role": "assistant", "content": engine.submit(request).text()})
    return {"messages": messages, "random": chance.to_json()}


def be_killed(folder: Path, num_sessions: int, kv_bits: int) -> None:
    """What the other process does: live, save, tell what comes next, and save on until it dies."""
    stage = Stage(kv_bits)
    states = []
    with stage.engine() as engine:
        for number in range(num_sessions):
            document = live(stage, engine, number)
            ids = stage.prompt(document["messages"])
            start = len(stage.prompt(document["messages"][:1]))
            kv = engine.export_prefix(ids, start=start)
            assert kv is not None
            states.append((document, kv))
            limit = kv_limit(engine.backend.config, len(ids) - start, KV_SHARE)
            for name, kept, most in (("text", None, None), ("kv", kv, None), ("share", kv, limit)):
                path = folder / f"{number}.{name}"
                size = save_state(path, document, fingerprint=stage.fingerprint, kv=kept, max_kv_bytes=most)
                planned = planned_size(document, engine=engine, token_ids=ids, start=start, max_kv_bytes=most)
                assert size <= planned.total_bytes
            tokens, _ = continuation(stage, engine, number, document)
            told = {"tokens": tokens, "document": document, "num_turn_tokens": len(ids) - start}
            print(json.dumps(told), flush=True)
        print("saved", flush=True)
        while True:
            for document, kv in states:
                save_state(folder / "again", document, fingerprint=stage.fingerprint, kv=kv)


def saved_by_the_killed(folder: Path, num_sessions: int, kv_bits: int) -> list[dict[str, Any]]:
    """What the other process said of its sessions before it was killed in the middle of a save."""
    command = [sys.executable, __file__, str(folder), str(num_sessions), str(kv_bits)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            if line.strip() == "saved":
                break
            lines.append(json.loads(line))
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(lines) == num_sessions
    return lines


def shares_of_plain(stage: Stage, folder: Path, number: int, num_tokens: int) -> dict[str, float]:
    """What keys and values add to files, in shares of their turns' at 8 bits, a scale a head and token included."""
    config = stage.backend.config
    plain = num_tokens * config.num_hidden_layers * config.num_key_value_heads * 2 * (config.head_dim + 4)
    sizes = {name: (folder / f"{number}.{name}").stat().st_size for name in ("text", "kv", "share")}
    return {name: (size - sizes["text"]) / plain for name, size in sizes.items()}


def restored(folder: Path, told: list[dict[str, Any]], kv_bits: int) -> None:
    stage = Stage(kv_bits)
    num_kept = dict.fromkeys(("text", "kv", "share"), 0)
    for number, expected in enumerate(told):
        assert len(expected["tokens"]) == NUM_NEXT
        shares = shares_of_plain(stage, folder, number, expected["num_turn_tokens"])
        assert shares["share"] <= 0.4
        for name in num_kept:
            with stage.engine() as engine:
                state = load_state(folder / f"{number}.{name}", engine=engine, fingerprint=stage.fingerprint)
                assert state.reason is None
                assert state.document == expected["document"]
                num_back = 0
                if state.kv is not None:
                    num_back = restore_kv(engine, state.kv)
                    assert num_back == len(state.kv.token_ids)
                    assert engine.stats().prefilled_tokens == state.kv.start
                    num_kept[name] += state.kv.num_tokens
                if name == "share":  # another page would have been too much
                    a_page = shares["kv"] * 1.1 * stage.backend.block_tokens / expected["num_turn_tokens"]
                    assert shares["share"] + a_page > 0.4 - 0.02
                tokens, num_cached = continuation(stage, engine, number, state.document)
                assert tokens == expected["tokens"], (number, name)
                assert num_cached >= num_back - 1
                assert (num_cached > 0) == (state.kv is not None)
                assert state.kv is not None or name != "kv"
    assert 0 == num_kept["text"] < num_kept["share"] < num_kept["kv"]
    with stage.engine() as engine:  # what the death interrupted is whole: the last save, or the one before
        last = load_state(folder / "again", engine=engine, fingerprint=stage.fingerprint)
        assert last.reason is None
        assert last.document in [t["document"] for t in told]
        other = dataclasses.replace(stage.fingerprint, weights="of another model")
        state = load_state(folder / "0.kv", engine=engine, fingerprint=other)
        assert (state.document, state.kv) == (told[0]["document"], None)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("num_sessions", "kv_bits"),
    [
        pytest.param(2, 16, id="slice"),
        pytest.param(50, 16, id="fifty", marks=pytest.mark.slow),
        pytest.param(50, 8, id="fifty-8-bit", marks=pytest.mark.slow),
    ],
)
def test_the_next_tokens_are_the_same_after_a_kill(tmp_path: Path, num_sessions: int, kv_bits: int) -> None:
    restored(tmp_path, saved_by_the_killed(tmp_path, num_sessions, kv_bits), kv_bits)


if __name__ == "__main__":
    be_killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
