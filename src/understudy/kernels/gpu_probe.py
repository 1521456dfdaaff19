"""Try graphics adapters in a process of its own, which a broken driver may take down.

That process reads part of a name from standard input, and writes a line of JSON for all adapters, then one for the
adapter that it tries.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from understudy.errors import GpuError
from understudy.kernels.formats import StorageType, dequantize, quantize
from understudy.kernels.gpu_adapters import Adapter, choose_adapter, list_adapters
from understudy.kernels.gpu_bindings import bind_pass
from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_matmul import MatrixStore, PassLayout, Variant, Way, matmul, padded, store_bytes
from understudy.kernels.reference import rounded_activations

__all__ = ["Finding", "answer", "find_gpu", "is_right", "survey"]

_TIMEOUT_S = 120.0
_ROWS, _COLS, _TOKENS = 19, 288, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of an adapter.

    Attributes:
        adapter: which.
        variant: abilities whose results were right; None if it was not tried, or cannot be used.
        problem: why it cannot be used.
        why: why it was chosen; None for those that were not.
    """

    adapter: Adapter
    variant: Variant | None = None
    problem: str | None = None
    why: str | None = None


def find_gpu(wanted: str = "") -> Finding:
    """The adapter to use, tried and right.

    Args:
        wanted: part of a name; "" takes the best real GPU.

    Raises:
        GpuError: there is none, its driver is broken, or it computes wrong; the sentence says which.
    """
    findings, obstacle = survey(wanted)
    if obstacle is not None:
        raise GpuError(obstacle)
    return next(finding for finding in findings if finding.why is not None)


def survey(wanted: str = "") -> tuple[list[Finding], str | None]:
    """All adapters, best first, and why none of them can be used; the one that would be chosen is tried.

    Args:
        wanted: part of a name, as `choose_adapter` takes it.

    Returns:
        What there is, and a sentence where a GPU cannot be used, else None.
    """
    lines, ending = _run_apart(wanted)
    if not lines:
        return [], f"The graphics driver is broken: listing its adapters ended with {ending}; mend or update it."
    if isinstance(lines[0], dict):
        return [], lines[0]["error"]
    adapters = [Adapter(**{**fields, "features": tuple(fields["features"])}) for fields in lines[0]]
    try:
        chosen, why = choose_adapter(adapters, wanted)
    except GpuError as error:
        return [Finding(adapter=adapter) for adapter in adapters], str(error)
    broken: dict[str, Any] = {"problem": f"its driver is broken (a test ended with {ending})"}
    tried = lines[1] if len(lines) > 1 else broken
    variant = Variant(**tried["variant"]) if tried.get("variant") else None
    finding = Finding(adapter=chosen, variant=variant, problem=tried.get("problem"), why=why)
    obstacle = finding.problem and f"The graphics adapter {chosen} cannot be used: {finding.problem}."
    return [finding if adapter == chosen else Finding(adapter=adapter) for adapter in adapters], obstacle


def _run_apart(wanted: str) -> tuple[list[Any], str]:
    """The lines of JSON that `answer` writes in a process of its own, and how that ended."""
    command = [sys.executable, "-W", "ignore", "-c", f"from {__name__} import answer; answer()"]
    try:
        run = subprocess.run(
            command, input=json.dumps(wanted), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        output, ending = run.stdout, f"exit code {run.returncode}"
    except subprocess.TimeoutExpired as error:
        output, ending = (error.stdout or b"").decode("utf-8", "replace"), f"no answer in {_TIMEOUT_S:.0f} s"
    return [json.loads(line) for line in output.splitlines() if line.startswith(("[", "{"))], ending


def is_right(device: GpuDevice, variant: Variant) -> bool:
    """Whether a small multiplication comes out as NumPy's.

    Raises:
        GpuError: the driver refuses the kernel.
    """
    rng = np.random.default_rng(0)
    raw = quantize(rng.normal(size=(_ROWS, _COLS)).astype(np.float32), StorageType.Q8_0)
    x = rng.normal(size=(_TOKENS, padded(_COLS))).astype(np.float32)
    layout = PassLayout(max_tokens=_TOKENS, max_items=1, max_rows=_TOKENS, max_blocks=1)
    words = np.zeros(layout.num_words, np.uint32)
    words[0] = _TOKENS
    store = MatrixStore(device, store_bytes([(StorageType.Q8_0, _ROWS, _COLS, False)]), "probe")
    way = Way(x_at=0, y_at=x.size, y_stride=padded(_ROWS))
    matrix = store.add([raw], StorageType.Q8_0, [_ROWS], _COLS, way)
    work = device.upload(np.concatenate([x.reshape(-1), np.zeros(_TOKENS * padded(_ROWS), np.float32)]), "probe")
    others = [device.buffer(16, "probe") for _ in range(3)]
    bound = bind_pass(
        device, weights=store.weights, work=work, words=device.upload(words, "probe"),
        **dict(zip(("cache", "turns", "logits"), others, strict=True)),
    )  # fmt: skip
    made = matmul(device, bound, matrix, layout, variant=variant)
    device.submit(device.schedule([made.run(_TOKENS)]))
    found = device.read(work).view(np.float32)[x.size :].reshape(_TOKENS, -1)[:, :_ROWS]
    taken = rounded_activations(x, StorageType.Q8_0) if variant.has_dp4a else x
    expected = taken @ dequantize(raw, StorageType.Q8_0, (_ROWS, _COLS)).T
    return bool(np.abs(found - expected).max() < 1e-4 * np.abs(expected).max())


def _try_adapter(adapter: Adapter) -> dict[str, object]:
    """What `survey` reads: the abilities to use, or the problem."""
    with GpuDevice(adapter) as device:
        if not is_right(device, Variant()):
            return {"problem": "a test computed a wrong result; update its driver"}
        if adapter.is_software:
            return {"variant": dataclasses.asdict(Variant())}
        has_subgroups = "subgroup" in adapter.features and _passes(device, Variant(has_subgroups=True))
        has_dp4a = _passes(device, Variant(has_dp4a=True))
        return {"variant": {"has_subgroups": has_subgroups, "has_dp4a": has_dp4a}}


def _passes(device: GpuDevice, variant: Variant) -> bool:
    try:
        return is_right(device, variant)
    except GpuError:
        return False


def _answer(wanted: str) -> Iterator[object]:
    """What there is, then what came of it: a crash in between tells where."""
    try:
        adapters = list_adapters()
    except GpuError as error:
        yield {"error": str(error)}
        return
    yield [dataclasses.asdict(adapter) for adapter in adapters]
    try:
        yield _try_adapter(choose_adapter(adapters, wanted)[0])
    except GpuError as error:
        yield {"problem": str(error).rstrip(".")}


def answer() -> None:
    """Be the other process: read the wish from standard input, write lines of JSON."""
    for line in _answer(json.load(sys.stdin)):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
