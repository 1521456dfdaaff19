"""What it saves to warm a character: python -m benchmarks.warm_character [--model FILE] [--persona 1500].

Characters take turns on one model; their personas are random tokens, as many as asked for. Cold, the first token of an
answer waits for the whole persona; warm, for the player's line. The last part saves one of them and puts it back into
an engine that knows nothing. `understudy synth FILE` writes a file of the 4B model's shape.
"""

import argparse
import functools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.first_token import commit, hardware

if TYPE_CHECKING:
    from understudy.engine import Backend, Engine, KvPages
    from understudy.model.checkpoint import LoadedModel

LINE_TOKENS = 16
TURN_TOKENS = 400


def first_token(engine: "Engine", prompt_ids: list[int]) -> tuple[float, int]:
    """Seconds to the first token of an answer, and how many tokens of the prompt were read for it."""
    from understudy.engine import GenerationRequest, SamplingParams

    request = GenerationRequest(prompt_ids=tuple(prompt_ids), sampling=SamplingParams(temperature=0), max_tokens=1)
    read, began = engine.stats().prefilled_tokens, time.perf_counter()
    engine.submit(request).text()
    return time.perf_counter() - began, engine.stats().prefilled_tokens - read


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def save_and_restore(files: "LoadedModel", backend: "Backend", kept: "KvPages") -> None:
    """Save keys and values, and put them back where only the persona is known."""
    from understudy.engine import Engine, KvLayout
    from understudy.npc.fingerprint import ModelFingerprint
    from understudy.npc.state import load_state, restore_kv, save_state

    fingerprint = ModelFingerprint.of(files, KvLayout.of(backend))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        text_bytes = save_state(path, {}, fingerprint=fingerprint)
        saved_s = seconds(lambda: save_state(path, {}, fingerprint=fingerprint, kv=kept))
        num_bytes = path.stat().st_size - text_bytes

        def restore(engine: Engine) -> None:
            state = load_state(path, engine=engine, fingerprint=fingerprint)
            assert state.kv is not None
            assert restore_kv(engine, state.kv) == len(kept.token_ids)

        def read(engine: Engine) -> None:
            engine.warm(kept.token_ids).text()

        taken = []
        for work in (restore, read):
            with Engine(backend, files.tokenizer) as engine:
                engine.warm(kept.token_ids[: kept.start]).text()
                taken.append(seconds(functools.partial(work, engine)))
    config = files.config  # plain: a level a value, a scale a head
    plain = 2 * config.num_hidden_layers * config.num_key_value_heads * (config.head_dim + 4) * kept.num_tokens
    print(f"{kept.num_tokens} tokens of turns: {num_bytes / 1e6:.2f} MB saved, {num_bytes / plain:.3f} of plain 8 bits")
    print(f"  saved in {saved_s:.2f} s, restored in {taken[0]:.2f} s, read again in {taken[1]:.2f} s")


def main() -> None:
    """Measure and print."""
    from understudy.engine import Engine
    from understudy.model.backends import open_backend
    from understudy.model.checkpoint import load_model
    from understudy.model.embedded import embedded_model_path

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the embedded model")
    parser.add_argument("--persona", type=int, default=1500, help="tokens of a persona (default: 1500)")
    parser.add_argument("--characters", type=int, default=2, help="that take turns (default: 2)")
    options = parser.parse_args()

    files = load_model(options.model or embedded_model_path())
    backend = open_backend(files.config, files.weights)
    chance = random.Random(0)

    def some(count: int) -> list[int]:
        return [chance.randrange(300, files.config.vocab_size) for _ in range(count)]

    print(f"{files.path.name}: {files.config.num_hidden_layers} layers, {backend.name}, {hardware()}, {commit()}")
    personas = [some(options.persona) for _ in range(options.characters)]
    with Engine(backend, files.tokenizer) as engine:
        first_token(engine, some(64))  # touches what a first step touches
        cold = [first_token(engine, persona + some(LINE_TOKENS)) for persona in personas]
        warm = [first_token(engine, persona + some(LINE_TOKENS)) for _ in range(3) for persona in personas]
        talk = personas[0] + some(TURN_TOKENS)
        engine.warm(talk).text()
        kept = engine.export_prefix(talk, start=len(personas[0]))
    assert kept is not None
    cold_s, warm_s = (statistics.median(s for s, _ in found) for found in (cold, warm))
    print(f"first token, cold: {cold_s:.3f} s for {cold[0][1]} tokens read")
    print(f"first token, warm: {warm_s:.3f} s for {warm[0][1]} tokens read: 1/{cold_s / warm_s:.1f} of the cold one")
    save_and_restore(files, backend, kept)


if __name__ == "__main__":
    main()
