"""The compiled kernels, where this installation has them."""

import functools
from types import ModuleType

import numpy as np
import numpy.typing as npt

from understudy.errors import EngineError

__all__ = ["MISSING_MEND", "encode_blocks", "kernel_names", "native_module"]

MISSING_MEND = (
    "the native kernels are not built, so NumPy computes the model (slowly); install a C++20 compiler "
    "(Debian: apt install g++) and run: pip install --force-reinstall --no-deps understudy (a clone: pip install -e .)"
)


@functools.cache
def native_module() -> ModuleType | None:
    """The extension module, or None where it was not built."""
    try:
        from understudy.kernels import _native
    except ImportError:
        return None
    return _native


def kernel_names() -> tuple[str, ...]:
    """Instruction sets that this CPU runs, best first; empty where the extension was not built."""
    native = native_module()
    return tuple(native.kernel_names()) if native else ()


def encode_blocks(
    kind: int, values: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], *, kernels: str = ""
) -> npt.NDArray[np.uint8]:
    """Search blocks for the least weighted squared error (`native/src/encode_impl.h`); same bytes from every set.

    Args:
        kind: GGML's number of Q4_0, Q8_0, Q4_K, Q6_K or IQ4_XS.
        values: (count,) finite, in whole blocks.
        weights: (count,) of the squared errors, above 0.
        kernels: an instruction set of `kernel_names()`; "" for the best.

    Raises:
        EngineError: the kernels are not built.
        ValueError: another format or size.
    """
    native = native_module()
    if native is None:
        raise EngineError(f"Blocks cannot be searched natively: {MISSING_MEND}.")
    packed: npt.NDArray[np.uint8] = native.encode(kind, values, weights, kernels)
    return packed
