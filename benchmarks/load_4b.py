"""Load a checkpoint of the published 4B's exact shape, and say what it costs.

    python benchmarks/load_4b.py FOLDER [--tiny]

Makes, once, in FOLDER: `safetensors/` and `bin/`, two model folders with the same random bfloat16 weights (8.38 GB
each; a few MB with --tiny). Then, each in a process of its own: load, run eight tokens, print seconds and the peak of
resident memory (which counts the mapped pages of the file that were touched). At the end, whether both gave identical
logits. Linux.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from understudy.engine.backend import Step
from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.model.tensor_names import expected_shapes
from understudy.model.transformer import ReferenceBackend
from understudy.testing import byte_tokenizer

PROMPT = [2, 17, 40, 101, 5, 200, 33, 99]
FULL = NemotronConfig(
    vocab_size=256000,
    hidden_size=3072,
    intermediate_size=9216,
    num_hidden_layers=32,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
)
TINY = NemotronConfig(
    vocab_size=1000,
    hidden_size=192,
    intermediate_size=576,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=32,
)
SLAB = 1 << 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a few MB instead of 8.38 GB, unpacked at each use as well")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.folder)
        return
    config = TINY if arguments.tiny else FULL
    make_folders(arguments.folder, config)
    print(f"command   {' '.join(['python', *sys.argv])}")
    print(f"commit    {commit()}  date {datetime.date.today()}  {platform.processor() or platform.machine()}")
    logits = []
    for kind in ("safetensors", "bin"):
        out = arguments.folder / f"{kind}.npy"
        subprocess.run(
            [sys.executable, __file__, str(arguments.folder / kind), "--measure", str(out)], check=True, text=True
        )
        logits.append(np.load(out))
    print(f"identical logits: {np.array_equal(*logits)}")


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def measure(out: Path, folder: Path) -> None:
    """Load one folder, run it, save the logits."""
    start = time.perf_counter()
    model = load_model(folder)
    backend = ReferenceBackend(model.config, model.weights, max_dense_bytes=0)
    loaded = time.perf_counter()
    logits = backend.forward([Step(backend.new_cache(), PROMPT, len(PROMPT))])[0]
    done = time.perf_counter()
    np.save(out, logits)
    status = Path("/proc/self/status").read_text()  # getrusage's peak would count the parent process
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(
        f"{folder.name:<12} file {model.file_bytes / 1e9:.3f} GB  load {loaded - start:.2f} s  "
        f"{len(PROMPT)} tokens {done - loaded:.2f} s  peak RSS {peak / 1e9:.2f} GB  finite {np.isfinite(logits).all()}"
    )


def make_folders(root: Path, config: NemotronConfig) -> None:
    """Write both folders, unless they are there for the same configuration."""
    for kind in ("safetensors", "bin"):
        folder = root / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.to_hf()))
        (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer().definition))
    safetensors, torch_file = root / "safetensors" / "model.safetensors", root / "bin" / "pytorch_model.bin"
    stamp = root / "made.json"
    if stamp.exists() and json.loads(stamp.read_text()) == config.to_hf():
        return
    stamp.unlink(missing_ok=True)
    offsets = write_safetensors(safetensors, config)
    write_torch(torch_file, safetensors, offsets, config)
    stamp.write_text(json.dumps(config.to_hf()))


def random_bfloat16(shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[bytes]:
    """Bytes of normal numbers with the spread of a fresh model, a slab at a time."""
    size, scale = int(np.prod(shape)), np.float32(shape[-1] ** -0.5)
    for start in range(0, size, SLAB):
        values = rng.standard_normal(min(SLAB, size - start), np.float32) * scale
        yield (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def write_safetensors(path: Path, config: NemotronConfig) -> dict[str, int]:
    """Write the file by hand, so that it never has to fit in memory; return where each tensor begins."""
    shapes = expected_shapes(config)
    header, at = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            for slab in random_bfloat16(shape, rng):
                file.write(slab)
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}


def write_torch(path: Path, source: Path, offsets: dict[str, int], config: NemotronConfig) -> None:
    """Save the same bytes with `torch.save`, from the mapped file."""
    import torch  # only the maker needs it; the measured processes run without

    state = {}
    for name, shape in expected_shapes(config).items():
        mapped = np.memmap(source, np.uint16, "c", offsets[name], shape)
        state[name] = torch.from_numpy(mapped).view(torch.bfloat16)
    torch.save(state, path)


if __name__ == "__main__":
    main()
