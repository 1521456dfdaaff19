"""Bits per byte of a model on held-out books, by the runtime.

Run: python benchmarks/bits_per_byte.py DATA_FOLDER [MODEL.gguf] [--windows N]

The texts (`books_dev`) are cut into windows of 256 tokens that do not overlap; the first token of a window is not
predicted and its bytes are not counted.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

from understudy.data.sources import read_texts
from understudy.engine.backend import Step
from understudy.model.backends import open_backend
from understudy.model.checkpoint import load_model
from understudy.model.embedded import embedded_model_path

WINDOW = 256


def main() -> None:
    """Print the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path, nargs="?", default=embedded_model_path())
    parser.add_argument("--windows", type=int, default=10**9, help="stop after so many windows")
    arguments = parser.parse_args()
    files = load_model(arguments.model)
    backend = open_backend(files.config, files.weights)
    nats, num_bytes, num_windows, began = 0.0, 0, 0, time.perf_counter()
    for text in read_texts("books_dev", arguments.data):
        ids = files.tokenizer.encode(text)
        for start in range(0, len(ids) - WINDOW, WINDOW):
            if num_windows == arguments.windows:
                break
            window = ids[start : start + WINDOW]
            logits = backend.forward([Step(backend.new_cache(), window[:-1], WINDOW - 1)])[0].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(WINDOW - 1), window[1:]]
            nats += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
            num_bytes += sum(len(files.tokenizer.token_bytes(i)) for i in window[1:])
            num_windows += 1
    figure = nats / math.log(2) / max(1, num_bytes)
    seconds = time.perf_counter() - began
    print(f"{figure:.4f} bits per byte on {num_bytes} bytes, {num_windows} windows, {seconds:.0f} s, {backend.name}")


if __name__ == "__main__":
    main()
