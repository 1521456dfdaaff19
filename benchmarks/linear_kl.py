"""Measure the chunked KL of `understudy.distillation.linear_kl` against the plain one with all logits.

    python benchmarks/linear_kl.py [--tokens 4096] [--vocab 8192] [--hidden 256] [--teacher 512] [--repeats 3]

Times a forward and backward pass in float32 on one thread (CPU seconds, so that a busy machine does not count), and
follows the bytes of live tensors through both passes on shapes alone, also at the size of the 4B model's vocabulary,
which needs neither its memory nor its time. Prints Markdown.
"""

import argparse
import datetime
import platform
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from understudy.distillation.linear_kl import FullGoal, linear_kl

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def chunked(hidden: Tensor, table: Tensor, states: Tensor, goal_table: Tensor, weights: Tensor) -> Tensor:
    return linear_kl(hidden, table, FullGoal(states=states, table=goal_table), weights)


def plain(hidden: Tensor, table: Tensor, states: Tensor, goal_table: Tensor, weights: Tensor) -> Tensor:
    student = (hidden @ table.T).float().log_softmax(-1)
    with torch.no_grad():
        teacher = (states @ goal_table.T).float().log_softmax(-1)
    return (F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1) * weights).sum()


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.sizes:
                storage = leaf.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.forget, storage._cdata)
        return out

    def forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def tensors(tokens: int, vocab: int, hidden: int, teacher: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape) * 0.2

    return [
        normal(tokens, hidden).requires_grad_(),
        normal(vocab, hidden).requires_grad_(),
        normal(tokens, teacher).to(dtype),
        normal(vocab, teacher).to(dtype),
        torch.ones(tokens),
    ]


def seconds(loss: Loss, inputs: list[Tensor], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        loss(*inputs).backward()
        times.append(time.process_time() - began)
        inputs[0].grad = inputs[1].grad = None
    return statistics.median(times)


def peak_bytes(loss: Loss, sizes: tuple[int, int, int, int], dtype: torch.dtype) -> int:
    """Beside the states and tables that both need."""
    with FakeTensorMode(), LiveBytes() as live:
        inputs = tensors(*sizes, dtype)
        held = live.now
        live.peak = held
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            total = loss(*inputs)
        total.backward()
    return live.peak - held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 4096), ("vocab", 8192), ("hidden", 256), ("teacher", 512), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (asked.tokens, asked.vocab, asked.hidden, asked.teacher)
    print(f"torch {torch.__version__}, {platform.machine()}, {datetime.datetime.now(datetime.UTC).date()}\n")
    inputs = tensors(*sizes, torch.float32)
    speed = {f.__name__: asked.tokens / seconds(f, inputs, asked.repeats) for f in (chunked, plain)}
    print(f"tokens a CPU second, float32, n={sizes[0]} V={sizes[1]} D={sizes[2]} D_t={sizes[3]}: ", end="")
    print(", ".join(f"{name} {value:.0f}" for name, value in speed.items()), "\n")
    print("| n | V | D | D_t | products | chunked, GiB | plain, GiB |\n|---|---|---|---|---|---|---|")
    cases = [(sizes, torch.float32), ((512, 256000, 3072, 3072), torch.bfloat16)]
    cases.append(((8192, 256000, 3072, 6144), torch.bfloat16))
    for shape, dtype in cases:
        peaks = " | ".join(f"{peak_bytes(f, shape, dtype) / 2**30:.2f}" for f in (chunked, plain))
        print("|", " | ".join(map(str, shape)), "|", str(dtype).removeprefix("torch."), "|", peaks, "|")


if __name__ == "__main__":
    main()
