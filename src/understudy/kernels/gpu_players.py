"""Who records a pass's dispatches into wgpu: C++ where it can be, else Python, call by call."""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from understudy.kernels.native import native_module

__all__ = ["Call", "CffiPlayer", "NativePlayer", "Player", "find_player"]

Call = tuple[Any, Any, int, int]
"""A pipeline, a bind group, both as cffi has them, and workgroups in x and y."""

_log = logging.getLogger(__name__)
_PASS = "struct WGPUComputePassEncoderImpl *"
_SIGNATURES = {
    "wgpuComputePassEncoderSetPipeline": (_PASS, "struct WGPUComputePipelineImpl *"),
    "wgpuComputePassEncoderSetBindGroup": (_PASS, "uint32_t", "struct WGPUBindGroupImpl *", "size_t", "uint32_t *"),
    "wgpuComputePassEncoderDispatchWorkgroups": (_PASS, "uint32_t", "uint32_t", "uint32_t"),
}


class Player(Protocol):
    """Records calls into a compute pass; a pipeline that is set already is not set again."""

    def prepare(self, calls: Sequence[Call]) -> Any:
        """What `play` takes, made once; it can be sliced. The handles stay the caller's to keep alive."""

    def play(self, compute_pass: Any, prepared: Any) -> None:
        """Record all of it into an open pass."""


class CffiPlayer:
    """One call through cffi after the other: about a microsecond each."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        """Take wgpu's functions."""
        self._null = ffi.NULL
        self._functions = tuple(getattr(lib, name) for name in _SIGNATURES)

    def prepare(self, calls: Sequence[Call]) -> tuple[Call, ...]:
        """The calls themselves."""
        return tuple(calls)

    def play(self, compute_pass: Any, prepared: tuple[Call, ...]) -> None:
        """Record all of it into an open pass."""
        set_pipeline, set_group, dispatch = self._functions
        null, last = self._null, None
        for pipeline, group, x, y in prepared:
            if pipeline is not last:
                set_pipeline(compute_pass, pipeline)
                last = pipeline
            set_group(compute_pass, 0, group, 0, null)
            dispatch(compute_pass, x, y, 1)


class NativePlayer:
    """All calls in one of our own, `native/include/understudy/gpu_calls.h`."""

    def __init__(self, ffi: Any, lib: Any, native: Any) -> None:
        """Take the addresses of wgpu's functions."""
        self._ffi, self._record = ffi, native.record_pass
        self._functions = tuple(self._address(getattr(lib, name)) for name in _SIGNATURES)

    def prepare(self, calls: Sequence[Call]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """(calls, 4) handles and workgroups."""
        rows = [(self._address(pipeline), self._address(group), x, y) for pipeline, group, x, y in calls]
        return np.array(rows, np.uint64).reshape(-1, 4)

    def play(self, compute_pass: Any, prepared: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        """Record all of it into an open pass."""
        self._record(self._functions, self._address(compute_pass), prepared)

    def _address(self, pointer: Any) -> int:
        return int(self._ffi.cast("uintptr_t", pointer))


def find_player(ffi: Any, lib: Any) -> Player:
    """C++ where it is built and wgpu has the functions that it calls; else Python, and a line of debugging says why.

    Args:
        ffi: wgpu's cffi.
        lib: wgpu's library, loaded.
    """
    native = native_module()
    if native is None:
        _log.debug("Dispatches are recorded by Python: the native kernels are not built.")
    elif not hasattr(native, "record_pass"):
        _log.debug("Dispatches are recorded by Python: the native kernels are of an older version.")
    elif (strange := _strange_function(ffi, lib)) is not None:
        _log.debug("Dispatches are recorded by Python: this wgpu has another %s.", strange)
    else:
        return NativePlayer(ffi, lib, native)
    return CffiPlayer(ffi, lib)


def _strange_function(ffi: Any, lib: Any) -> str | None:
    """The first function whose signature, in the header that came with the library, is not the one known here."""
    for name, expected in _SIGNATURES.items():
        function = getattr(lib, name, None)
        kind = None if function is None else ffi.typeof(function)
        if kind is None or kind.result.cname != "void" or tuple(a.cname for a in kind.args) != expected:
            return name
    return None
