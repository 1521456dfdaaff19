"""Compare greedy tokens with llama.cpp on the same GGUF: the embedded model in 16 bits, and in Q8_0, Q4_0 and Q4_K.

Run: python benchmarks/llama_cpp_parity.py [MODEL.gguf]      (needs llama-cpp-python: pip install 'understudy[bench]')

Ours is the compiled backend with a 16-bit KV cache; both round activations to 8 bits alike. Where the two part, the gap
between the two best logits is printed. A sum in another order moves an activation across a rounding border here and
there, and the layers spread that; how much of it is unavoidable, llama.cpp's agreement with itself shows, when it reads
the prompt in one batch or token by token.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np

from understudy.engine.backend import Step
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.native_backend import CpuBackend
from understudy.prompt import Conversation, Message, encode_pieces, render

NUM_TOKENS = 32
LINES = (
    "Good evening. Who are you?",
    "How much is a bed for the night?",
    "what can i eat here",
    "Tell me about the river.",
    "Have you seen my brother?",
    "I need a sword.",
    "Is it safe on the road at night?",
    "goodbye",
    "Where can I find a healer?",
    "What's the news in town?",
)
SYSTEMS = (
    "You are Hettie Marlpit, innkeeper of the Dry Boot in Harrowmere. You are warm, nosy and brisk.",
    "You are Bram Oakley, a beekeeper. You keep fourteen hives and you are afraid of thunder.",
)
QUANTIZATIONS = {"Q8_0": 7, "Q4_0": 2, "Q4_K": 14}  # llama_ftype numbers: MOSTLY_Q8_0, MOSTLY_Q4_0, MOSTLY_Q4_K_S


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """llama.cpp writes its log to the C library's stderr."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def prompts(model: LoadedModel) -> list[list[int]]:
    """Twenty prompts: two characters, ten lines each."""
    found = []
    for system in SYSTEMS:
        for line in LINES:
            talk = Conversation(messages=(Message(role="system", content=system), Message(role="user", content=line)))
            found.append(encode_pieces(render(talk), model.tokenizer)[0])
    return found


def ours(backend: CpuBackend, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Greedy tokens and, for each, the gap between the best two logits."""
    cache = backend.new_cache()
    new, tokens, gaps = prompt, [], []
    for _ in range(NUM_TOKENS):
        logits = backend.forward([Step(cache, new)])[0][0]
        second, best = np.partition(logits, -2)[-2:]
        tokens.append(int(logits.argmax()))
        gaps.append(float(best - second))
        new = tokens[-1:]
    return tokens, gaps


def theirs(llama: llama_cpp.Llama, prompt: list[int]) -> list[int]:
    """llama.cpp's greedy tokens for the same ids."""
    llama.reset()
    llama.eval(prompt)
    tokens = []
    for _ in range(NUM_TOKENS):
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(llama.ctx), shape=(llama.n_vocab(),))
        tokens.append(int(logits.argmax()))
        llama.eval(tokens[-1:])
    return tokens


def compare(path: Path) -> list[str]:
    """Lines about one file: our tokens against llama.cpp's, and llama.cpp's against its own, a token at a time."""
    model = load_model(path)
    backend = CpuBackend(model.config, model.weights, kv_bits=16)
    with quiet():
        batched = llama_cpp.Llama(str(path), n_ctx=512, verbose=False, n_threads=2)
        stepwise = llama_cpp.Llama(str(path), n_ctx=512, verbose=False, n_threads=2, n_batch=1, n_ubatch=1)
    agreed, own, notes = [], [], []
    for number, prompt in enumerate(prompts(model)):
        mine, gaps = ours(backend, prompt)
        other = theirs(batched, prompt)
        agreed.append(common(mine, other))
        own.append(common(theirs(stepwise, prompt), other))
        if agreed[-1] < NUM_TOKENS:
            gap = gaps[agreed[-1]]
            notes.append(f"  prompt {number + 1}: token {agreed[-1] + 1} differs, gap of our best two logits {gap:.4f}")
    return [f"ours and llama.cpp's: {share(agreed)}", f"llama.cpp's and its own, token by token: {share(own)}", *notes]


def common(first: list[int], second: list[int]) -> int:
    """Number of tokens before the first difference."""
    return next((i for i in range(NUM_TOKENS) if first[i] != second[i]), NUM_TOKENS)


def share(agreed: list[int]) -> str:
    """How many prompts agree whole, and tokens before a difference."""
    whole = sum(n == NUM_TOKENS for n in agreed)
    return (
        f"{whole}/{len(agreed)} prompts identical, {sum(agreed)}/{len(agreed) * NUM_TOKENS} tokens before a difference"
    )


def quantize(source: Path, target: Path, file_type: int) -> None:
    """Let llama.cpp quantize a GGUF."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 2
    params.pure = file_type == QUANTIZATIONS["Q4_K"]
    with quiet():
        code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code:
        raise SystemExit(f"llama.cpp could not quantize {source} (code {code})")


def main() -> None:
    """Print one line a file."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else embedded_model_path(in_16_bits=True)
    num_prompts = len(SYSTEMS) * len(LINES)
    print(f"llama-cpp-python {llama_cpp.__version__}, {num_prompts} prompts, {NUM_TOKENS} greedy tokens each")
    with tempfile.TemporaryDirectory() as folder:
        files = {"as shipped": source}
        for name, number in QUANTIZATIONS.items():
            files[name] = Path(folder) / f"{name}.gguf"
            quantize(source, files[name], number)
        for name, path in files.items():
            for line in compare(path):
                print(f"{name}: {line}" if not line.startswith(" ") else line)


if __name__ == "__main__":
    main()
