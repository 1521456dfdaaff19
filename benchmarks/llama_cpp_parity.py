"""Compare greedy tokens with llama.cpp on the same GGUF: the embedded model as it is, and in Q4_0 and Q4_K.

Run: python benchmarks/llama_cpp_parity.py [MODEL.gguf]      (needs llama-cpp-python: pip install 'understudy[peers]')

Where the two part, the gap between the two best logits is printed: llama.cpp rounds activations to 16 or 8 bits, so a
near-tie may fall either way; a gap well above that rounding would be an error of ours. To tell the two apart, the
quantized weights are also written out as F16 by us, so that llama.cpp multiplies the same weights without 8-bit
activations: what still differs then would be our reading of the format.
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
from understudy.model.gguf_writer import write_gguf
from understudy.model.transformer import ReferenceBackend
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
QUANTIZATIONS = {"Q4_0": 2, "Q4_K": 14}  # llama_ftype numbers: MOSTLY_Q4_0, MOSTLY_Q4_K_S


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


def ours(backend: ReferenceBackend, prompt: list[int]) -> tuple[list[int], list[float]]:
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


def widen(source: Path, target: Path) -> None:
    """Write a quantized GGUF's weights as F16."""
    model = load_model(source)
    tensors = {name: weight.dense() for name, weight in model.weights.items()}
    write_gguf(target, model.config, tensors, model.tokenizer.definition, model.chat_template, file_type="f16")


def compare(path: Path, peer_path: Path) -> tuple[int, int, list[str]]:
    """Our tokens for `path` against llama.cpp's for `peer_path`.

    Returns:
        Prompts that agree in all tokens, tokens that agree before the first difference, and the differences.
    """
    model = load_model(path)
    with quiet():
        llama = llama_cpp.Llama(str(peer_path), n_ctx=512, logits_all=False, verbose=False, n_threads=2)
    backend = ReferenceBackend(model.config, model.weights)
    same, agreed, notes = 0, 0, []
    for number, prompt in enumerate(prompts(model)):
        mine, gaps = ours(backend, prompt)
        other = theirs(llama, prompt)
        at = next((i for i in range(NUM_TOKENS) if mine[i] != other[i]), NUM_TOKENS)
        same += at == NUM_TOKENS
        agreed += at
        if at < NUM_TOKENS:
            notes.append(f"prompt {number + 1}: token {at + 1} differs, gap of our best two logits {gaps[at]:.4f}")
    return same, agreed, notes


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
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else embedded_model_path()
    num_prompts = len(SYSTEMS) * len(LINES)
    print(f"llama-cpp-python {llama_cpp.__version__}, {num_prompts} prompts, {NUM_TOKENS} greedy tokens each")
    with tempfile.TemporaryDirectory() as folder:
        files = {"as shipped": (source, source)}
        for name, number in QUANTIZATIONS.items():
            path, wide = Path(folder) / f"{name}.gguf", Path(folder) / f"{name}-f16.gguf"
            quantize(source, path, number)
            widen(path, wide)
            files[name] = (path, path)
            files[f"{name}, there as F16"] = (path, wide)
        for name, (path, peer_path) in files.items():
            same, agreed, notes = compare(path, peer_path)
            total = len(SYSTEMS) * len(LINES)
            print(f"{name}: {same}/{total} prompts identical, {agreed}/{total * NUM_TOKENS} tokens before a difference")
            for note in notes:
                print(f"  {note}")


if __name__ == "__main__":
    main()
