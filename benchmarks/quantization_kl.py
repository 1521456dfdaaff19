"""Compare our quantized files with llama.cpp's: divergence from the 16-bit model, same bits, same calibration texts.

    python benchmarks/quantization_kl.py [MODEL] --tools FOLDER [--rows N] [--feedback]
    python benchmarks/quantization_kl.py [MODEL] --source TREE [--rows N] [--feedback]

--tools: llama.cpp's own llama-imatrix and llama-quantize lie in FOLDER; they measure their importance matrix on our
calibration texts and make the files Q4_K_S, Q6_K and IQ4_XS. From its source tree, which llama-cpp-python's source
package brings (vendor/llama.cpp):

    cmake -B FOLDER/build -S vendor/llama.cpp -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
    cmake --build FOLDER/build --target llama-quantize llama-imatrix    (then FOLDER/build/bin)

--source: no such programs at hand. The block encoders in TREE (ggml-quants.c) are compiled alone and get the same
E[x^2] as ours for an importance matrix; the tensors' formats follow llama.cpp's rules (src/llama-quant.cpp). Needs a C
compiler. Both: both are measured. Either needs NumPy, torch and gguf.

Texts: calibration in the chat template from the look-up generator; held out are dialogues of this repository's worlds.
All weights are unpacked and run in float32 by the same forward pass, so only their errors count. Prints Markdown.
"""

import argparse
import ctypes
import datetime
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf.quants import dequantize as unpack

from understudy.data.dialogues import encode_dialogues
from understudy.data.sources import read_dialogues
from understudy.kernels.formats import dequantize
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.gguf_writer import write_gguf
from understudy.model.tensor_names import gguf_names
from understudy.quantization.blocks import encode
from understudy.quantization.calibration import CalibrationOptions, calibration_batches, measure_importance
from understudy.quantization.gptq import quantize_layers
from understudy.quantization.plan import named_plan
from understudy.training.model import NemotronLM, from_hf_tensors

F32 = npt.NDArray[np.float32]
Tensors = Mapping[str, F32]
ROOT = Path(__file__).parents[1]
LENGTH = 256
PAIRS = {"q4": "Q4_K_S", "q6": "Q6_K", "q4xs": "IQ4_XS"}
BLOCKS = {12: ("q4_K", 256, 144), 13: ("q5_K", 256, 176), 14: ("q6_K", 256, 210), 23: ("iq4_xs", 256, 136)}
STUB = r"""
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
float ggml_table_f32_f16[1 << 16];
size_t ggml_row_size(int type, int64_t n) {
    return n / 256 * (type == 12 ? 144 : type == 13 ? 176 : type == 14 ? 210 : 136);
}
void ggml_abort(const char* file, int line, const char* text, ...) {
    fprintf(stderr, "%s:%d %s\n", file, line, text);
    abort();
}
void ggml_critical_section_start(void) {}
void ggml_critical_section_end(void) {}
static float wide(uint32_t h) {
    int e = h >> 10 & 31, m = h & 1023;
    float v = e == 0 ? ldexpf(m, -24) : e == 31 ? INFINITY : ldexpf(m + 1024, e - 25);
    return h >> 15 ? -v : v;
}
__attribute__((constructor)) static void fill(void) {
    for (uint32_t i = 0; i < 1 << 16; i++) ggml_table_f32_f16[i] = wide(i);
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=embedded_model_path(in_16_bits=True))
    parser.add_argument("--tools", type=Path, help="folder of llama-imatrix and llama-quantize")
    parser.add_argument("--source", type=Path, help="llama.cpp's source tree, for its encoders alone")
    parser.add_argument("--rows", type=int, default=160, help=f"held-out rows of {LENGTH} tokens")
    parser.add_argument("--feedback", action="store_true", help="our error feedback (GPTQ) as well")
    arguments = parser.parse_args()
    if not (arguments.tools or arguments.source):
        parser.error("name --tools or --source")
    files = load_model(arguments.model)
    batches = calibration_batches(files, CalibrationOptions(samples=128, length=LENGTH))
    importance = measure_importance(files, batches)
    measure = divergence_from(files, held_out(files, arguments.rows))
    print_head(arguments.model, arguments.rows)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        peers: dict[str, Callable[[str], tuple[Tensors, int]]] = {}
        if arguments.tools:
            peers["llama-quantize"] = by_tools(arguments.tools, files, batches, folder)
        if arguments.source:
            library = build_encoders(arguments.source, folder)
            peers["llama.cpp's encoders"] = lambda kind: by_encoders(library, files, importance, kind)
        for ours, theirs in PAIRS.items():
            for name, make in peers.items():
                print_row(f"{name} {theirs}", *make(theirs), measure)
            print_row(f"ours {ours}", *searched(files, importance, ours), measure)
            if arguments.feedback:
                print_row(f"ours {ours}, error feedback", *fed_back(files, batches, importance, ours), measure)


def print_head(model: Path, rows: int) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(
        f"python benchmarks/quantization_kl.py: {model.name}, commit {commit.stdout.strip()}, {datetime.date.today()},"
    )
    print(f"{platform.processor() or platform.machine()}, {rows * LENGTH} held-out tokens\n")
    print("| file | bytes of matrices | KL, mean | standard error | KL, median | KL, 99 % | same first choice |")
    print("|---|---|---|---|---|---|---|")


def print_row(name: str, tensors: Tensors, size: int, measure: Callable[[Tensors], tuple[F32, float]]) -> None:
    kl, same = measure(tensors)
    error = kl.std() / np.sqrt(kl.size)
    print(
        f"| {name} | {size:,} | {kl.mean():.6f} | {error:.6f} | {np.median(kl):.6f} | {np.quantile(kl, 0.99):.4f} | "
        f"{same:.2%} |",
        flush=True,
    )


def held_out(files: LoadedModel, rows: int) -> torch.Tensor:
    """(rows, 256) tokens of dialogues that no calibration has seen."""
    records = []
    for source in ("worlds_as_played", "everyday"):
        found = list(read_dialogues(source, ROOT))
        records += found[:: max(1, len(found) // rows)]
    ids = torch.from_numpy(encode_dialogues(records, files.tokenizer).token_ids.astype(np.int64))
    return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)[:rows]


def divergence_from(files: LoadedModel, rows: torch.Tensor) -> Callable[[Tensors], tuple[F32, float]]:
    """What measures KL(16-bit || other) at every token, and the share of tokens with the same first choice."""
    model = NemotronLM(files.config)

    @torch.no_grad()
    def predict(tensors: Tensors) -> list[torch.Tensor]:
        from_hf_tensors(model, {name: torch.from_numpy(np.ascontiguousarray(t)) for name, t in tensors.items()})
        return [model(part).log_softmax(-1).half() for part in rows.split(8)]

    exact = predict({name: weight.dense() for name, weight in files.weights.items()})

    def measure(tensors: Tensors) -> tuple[F32, float]:
        kl, same = [], []
        for p, q in zip(exact, predict(tensors), strict=True):
            kl.append((p.float().exp() * (p.float() - q.float())).sum(-1).flatten())
            same.append((p.argmax(-1) == q.argmax(-1)).flatten())
        return torch.cat(kl).numpy(), float(torch.cat(same).float().mean())

    return measure


def searched(files: LoadedModel, importance: Tensors, plan_name: str) -> tuple[Tensors, int]:
    """Our files: weights unpacked, and the matrices' bytes."""
    plan = named_plan(plan_name, files.config)
    out, size = {}, 0
    for name, weight in files.weights.items():
        out[name] = weight.dense()
        if len(weight.shape) == 2:
            packed = encode(out[name], plan.kinds[name], importance.get(name))
            out[name] = dequantize(packed, plan.kinds[name], weight.shape)
            size += packed.size
    return out, size


def fed_back(
    files: LoadedModel, batches: list[torch.Tensor], importance: Tensors, plan_name: str
) -> tuple[Tensors, int]:
    """The same with error feedback in the layers."""
    out, size = searched(files, importance, plan_name)
    found = {
        m.name: m.weight.dense()
        for m in quantize_layers(files, batches, named_plan(plan_name, files.config).kinds, encode)
    }
    return {**out, **found}, size


def llama_kind(name: str, file_type: str, num_layers: int) -> int:
    """Format of a matrix by llama.cpp's rules for a model of less than four query heads a KV head."""
    base = {"Q4_K_S": 12, "Q6_K": 14, "IQ4_XS": 23}[file_type]
    if name == "lm_head.weight":
        return 14
    if file_type == "Q4_K_S" and name.startswith("model.layers."):
        layer = int(name.split(".")[2])
        if ("v_proj" in name and layer < 4) or ("down_proj" in name and layer < num_layers // 8):
            return 13
    return base


def build_encoders(source: Path, folder: Path) -> ctypes.CDLL:
    """Compile ggml-quants.c alone."""
    (folder / "stub.c").write_text(STUB)
    ggml, library = source / "ggml", folder / "encoders.so"
    subprocess.run(
        [
            *("cc", "-O2", "-march=native", "-w", "-fPIC", "-shared", "-D_GNU_SOURCE"),
            *(
                f"-I{ggml / 'include'}",
                f"-I{ggml / 'src'}",
                str(ggml / "src" / "ggml-quants.c"),
                str(folder / "stub.c"),
            ),
            *("-Wl,--unresolved-symbols=ignore-all", "-lm", "-o", str(library)),
        ],
        check=True,
    )
    return ctypes.CDLL(str(library), mode=1)  # RTLD_LAZY: what is not called need not be there


def by_encoders(library: ctypes.CDLL, files: LoadedModel, importance: Tensors, file_type: str) -> tuple[Tensors, int]:
    """llama.cpp's blocks with our E[x^2] for an importance matrix."""
    out, size = {}, 0
    for name, weight in files.weights.items():
        out[name] = x = weight.dense()
        if x.ndim == 1:
            continue
        kind = llama_kind(name, file_type, files.config.num_hidden_layers)
        label, values, num_bytes = BLOCKS[kind]
        packed = np.empty(x.size // values * num_bytes, np.uint8)
        encoder = getattr(library, f"quantize_{label}")
        encoder.restype = ctypes.c_size_t
        weights = importance.get(name)
        encoder(pointer(x), pointer(packed), ctypes.c_int64(len(x)), ctypes.c_int64(x.shape[1]), pointer(weights))
        out[name] = unpack(packed.reshape(len(x), -1), gguf.GGMLQuantizationType(kind))
        size += packed.size
    return out, size


def pointer(array: npt.NDArray[np.generic] | None) -> ctypes.c_void_p | None:
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")


def by_tools(
    tools: Path, files: LoadedModel, batches: list[torch.Tensor], folder: Path
) -> Callable[[str], tuple[Tensors, int]]:
    """llama.cpp's own programs, from the same texts."""
    source, texts, matrix = folder / "f16.gguf", folder / "texts.txt", folder / "imatrix.gguf"
    write_gguf(source, files.config, files.weights, files.tokenizer.definition, files.chat_template, file_type="f16")
    special = {t["id"]: t["content"].encode() for t in files.tokenizer.definition["added_tokens"]}
    ids = [i for batch in batches for row in batch.tolist() for i in row]
    texts.write_bytes(b"".join(special.get(i) or files.tokenizer.token_bytes(i) for i in ids))
    command = [str(tools / "llama-imatrix"), "-m", str(source), "-f", str(texts), "-o", str(matrix)]
    command += ["-c", str(LENGTH), "--parse-special", "--process-output", "-t", "2"]
    run(command)

    def make(file_type: str) -> tuple[Tensors, int]:
        target = folder / f"{file_type}.gguf"
        command = [str(tools / "llama-quantize"), "--imatrix", str(matrix), str(source), str(target), file_type]
        run(command)
        names = {short: long for long, short in gguf_names(files.weights).items()}
        out, size = {name: weight.dense() for name, weight in files.weights.items()}, 0
        for tensor in gguf.GGUFReader(target).tensors:
            if names.get(tensor.name) and len(files.weights[names[tensor.name]].shape) == 2:
                out[names[tensor.name]] = unpack(tensor.data, tensor.tensor_type)
                size += int(tensor.n_bytes)
        target.unlink()
        return out, size

    return make


if __name__ == "__main__":
    main()
