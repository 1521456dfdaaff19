from typing import Any, overload

import numpy as np
import numpy.typing as npt

BLOCK_TOKENS: int

def kernel_names() -> list[str]: ...
def matmul(
    kind: int,
    rows: int,
    cols: int,
    source: npt.NDArray[np.uint8],
    x: npt.NDArray[np.float32],
    kernels: str,
    is_neuron_major: bool = False,
    skips_zeros: bool = True,
) -> npt.NDArray[np.float32]: ...
def encode(
    kind: int, x: npt.NDArray[np.float32], w: npt.NDArray[np.float32], kernels: str
) -> npt.NDArray[np.uint8]: ...
def survey(
    logits: npt.NDArray[np.floating[Any]], allowed: npt.NDArray[np.uint32] | None = None, kernels: str = ""
) -> tuple[int, float, int]: ...
def draw(
    logits: npt.NDArray[np.floating[Any]],
    highest: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniform: float,
    allowed: npt.NDArray[np.uint32] | None = None,
    kernels: str = "",
) -> int: ...
def draw_rows(
    rows: list[npt.NDArray[np.floating[Any]]],
    rules: list[tuple[float, int, float, float, float]],
    kernels: str = "",
) -> list[tuple[int, float]]: ...
def measure_limits(num_threads: int, kernels: str, num_bytes: int) -> tuple[float, float]: ...

class ModelShape:
    def __init__(
        self,
        *,
        num_layers: int,
        hidden: int,
        mlp: int,
        vocab: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rotary_dim: int,
        rope_theta: float,
        norm_eps: float,
    ) -> None: ...

class KvPool:
    def __init__(self, shape: ModelShape, num_blocks: int, is_8bit: bool) -> None: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    def copy_block(self, source: int, target: int, /) -> None: ...
    def read_block(self, block: int, /) -> npt.NDArray[np.uint8]: ...
    def write_block(self, block: int, content: npt.NDArray[np.uint8], /) -> None: ...

class Model:
    @overload
    def __init__(self, shape: ModelShape, num_threads: int, kernels: str) -> None: ...
    @overload
    def __init__(self, base: Model, num_threads: int) -> None: ...
    def set_adapter(self, layer: int, slot: int, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], /) -> None: ...
    def set_matrix(
        self, layer: int, slot: int, kind: int, rows: int, cols: int, source: npt.NDArray[np.uint8], /
    ) -> None: ...
    def set_head(self, kind: int, rows: int, cols: int, source: npt.NDArray[np.uint8], /) -> None: ...
    def set_norm(
        self, layer: int, which: int, gain: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], /
    ) -> None: ...
    def forward(
        self,
        pool: KvPool,
        x: npt.NDArray[np.float32],
        past: npt.NDArray[np.int32],
        num_tokens: npt.NDArray[np.int32],
        num_logits: npt.NDArray[np.int32],
        tables: npt.NDArray[np.int32],
        is_hidden: bool = False,
    ) -> npt.NDArray[np.float32]: ...
    def set_skip_zeros(self, skips: bool) -> None: ...
    def set_census(self, counts: bool) -> None: ...
    def census(self) -> list[tuple[int, int]]: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kernels(self) -> str: ...
    @property
    def num_threads(self) -> int: ...

class Flight:
    def land(self) -> npt.NDArray[np.float32]: ...
    def settle(self) -> None: ...

class Launcher:
    def __init__(self, model: Model) -> None: ...
    def launch(
        self,
        pool: KvPool,
        x: npt.NDArray[np.float32],
        past: npt.NDArray[np.int32],
        num_tokens: npt.NDArray[np.int32],
        num_logits: npt.NDArray[np.int32],
        tables: npt.NDArray[np.int32],
    ) -> Flight: ...

class GpuRecorder:
    def __init__(self, functions: tuple[int, ...], device: int, queue: int) -> None: ...
    def record(
        self, before: npt.NDArray[np.uint64], calls: npt.NDArray[np.uint64], after: npt.NDArray[np.uint64], /
    ) -> int: ...
    def submit(self, commands: int, /) -> None: ...
    def release(self, commands: int, /) -> None: ...
    def write(self, buffer: int, offset: int, values: npt.NDArray[np.uint8], num_bytes: int, /) -> None: ...
