"""Who records commands into wgpu: C++ where it can be, else Python, call by call."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from understudy.kernels.native import native_module

__all__ = ["Call", "CffiPlayer", "CopyCall", "NativePlayer", "Player", "Prepared", "find_player"]

Call = tuple[Any, Any, int, int]
"""A pipeline, a bind group, both as cffi has them, and workgroups in x and y."""

CopyCall = tuple[Any, int, Any, int, int]
"""A buffer and an offset in it, another and an offset in that, bytes."""

_log = logging.getLogger(__name__)
_DEVICE, _QUEUE, _ENCODER = "struct WGPUDeviceImpl *", "struct WGPUQueueImpl *", "struct WGPUCommandEncoderImpl *"
_PASS, _COMMANDS = "struct WGPUComputePassEncoderImpl *", "struct WGPUCommandBufferImpl *"
_BUFFER = "struct WGPUBufferImpl *"
_SIGNATURES = {  # in the order of `GpuFunctions`
    "wgpuDeviceCreateCommandEncoder": (_ENCODER, _DEVICE, "WGPUCommandEncoderDescriptor *"),
    "wgpuCommandEncoderCopyBufferToBuffer": ("void", _ENCODER, _BUFFER, "uint64_t", _BUFFER, "uint64_t", "uint64_t"),
    "wgpuCommandEncoderBeginComputePass": (_PASS, _ENCODER, "WGPUComputePassDescriptor *"),
    "wgpuComputePassEncoderSetPipeline": ("void", _PASS, "struct WGPUComputePipelineImpl *"),
    "wgpuComputePassEncoderSetBindGroup": (
        "void", _PASS, "uint32_t", "struct WGPUBindGroupImpl *", "size_t", "uint32_t *",
    ),
    "wgpuComputePassEncoderDispatchWorkgroups": ("void", _PASS, "uint32_t", "uint32_t", "uint32_t"),
    "wgpuComputePassEncoderEnd": ("void", _PASS),
    "wgpuComputePassEncoderRelease": ("void", _PASS),
    "wgpuCommandEncoderFinish": (_COMMANDS, _ENCODER, "WGPUCommandBufferDescriptor *"),
    "wgpuCommandEncoderRelease": ("void", _ENCODER),
    "wgpuQueueSubmit": ("void", _QUEUE, "size_t", f"{_COMMANDS} *"),
    "wgpuCommandBufferRelease": ("void", _COMMANDS),
    "wgpuQueueWriteBuffer": ("void", _QUEUE, _BUFFER, "uint64_t", "void *", "size_t"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Commands as the player that prepared them takes them; the handles in them stay the caller's to keep alive.

    Attributes:
        before: copies before the first call.
        calls: dispatches; a stretch of them can be taken.
        after: copies after the last.
    """

    before: Any
    calls: Any
    after: Any


class Player(Protocol):
    """Records commands and hands them over; what is set already is not set again. Errors are wgpu's."""

    def prepare(self, before: Sequence[CopyCall], calls: Sequence[Call], after: Sequence[CopyCall]) -> Prepared:
        """What `record` takes, made once."""

    def record(self, prepared: Prepared, start: int, stop: int) -> Any:
        """Handle of the commands of a stretch; copies go with the first and the last call."""

    def submit(self, commands: Any) -> None:
        """Hand commands over and release them."""

    def release(self, commands: Any) -> None:
        """Drop commands that nobody submits."""

    def write(self, buffer: Any, offset: int, values: npt.NDArray[np.uint8], num_bytes: int) -> None:
        """Copy the beginning of whole words into a buffer, before what is submitted later."""


class CffiPlayer:
    """One call through cffi after the other: about a microsecond each."""

    def __init__(self, ffi: Any, lib: Any, checked: Any, device: Any, queue: Any) -> None:
        """Take wgpu's functions, those that raise what they say, and the handles of a device and its queue."""
        self._ffi, self._null, self._lib, self._checked, self._device, self._queue = (
            ffi, ffi.NULL, lib, checked, device, queue,
        )  # fmt: skip

    def prepare(self, before: Sequence[CopyCall], calls: Sequence[Call], after: Sequence[CopyCall]) -> Prepared:
        """The calls themselves."""
        return Prepared(tuple(before), tuple(calls), tuple(after))

    def record(self, prepared: Prepared, start: int, stop: int) -> Any:
        """Handle of the commands of a stretch."""
        checked, lib, null, calls = self._checked, self._lib, self._null, prepared.calls
        encoder = checked.wgpuDeviceCreateCommandEncoder(self._device, null)
        try:
            if start == 0:
                self._copy(encoder, prepared.before)
            if calls:
                compute_pass = lib.wgpuCommandEncoderBeginComputePass(encoder, null)  # `finish` tells what was wrong
                self._play(compute_pass, calls[start:stop])
                lib.wgpuComputePassEncoderEnd(compute_pass)
                lib.wgpuComputePassEncoderRelease(compute_pass)
            if stop == len(calls):
                self._copy(encoder, prepared.after)
            return checked.wgpuCommandEncoderFinish(encoder, null)
        finally:
            lib.wgpuCommandEncoderRelease(encoder)

    def submit(self, commands: Any) -> None:
        """Hand commands over and release them."""
        try:
            self._checked.wgpuQueueSubmit(self._queue, 1, self._ffi.new("WGPUCommandBuffer *", commands))
        finally:
            self.release(commands)

    def release(self, commands: Any) -> None:
        """Drop commands that nobody submits."""
        self._lib.wgpuCommandBufferRelease(commands)

    def write(self, buffer: Any, offset: int, values: npt.NDArray[np.uint8], num_bytes: int) -> None:
        """Copy whole words into a buffer."""
        at = self._ffi.from_buffer("uint8_t[]", values)
        self._checked.wgpuQueueWriteBuffer(self._queue, buffer, offset, at, num_bytes)

    def _play(self, compute_pass: Any, calls: Sequence[Call]) -> None:
        lib, null = self._lib, self._null
        set_pipeline, set_group = lib.wgpuComputePassEncoderSetPipeline, lib.wgpuComputePassEncoderSetBindGroup
        dispatch = lib.wgpuComputePassEncoderDispatchWorkgroups
        last = last_group = None
        for pipeline, group, x, y in calls:
            if pipeline is not last:
                set_pipeline(compute_pass, pipeline)
            if group is not last_group:
                set_group(compute_pass, 0, group, 0, null)
            last, last_group = pipeline, group
            dispatch(compute_pass, x, y, 1)

    def _copy(self, encoder: Any, copies: Sequence[CopyCall]) -> None:
        for copy in copies:
            self._lib.wgpuCommandEncoderCopyBufferToBuffer(encoder, *copy)


class NativePlayer:
    """All calls in one of our own, `native/include/understudy/gpu_calls.h`."""

    def __init__(self, ffi: Any, lib: Any, checked: Any, device: Any, queue: Any, native: Any) -> None:
        """Take the addresses of wgpu's functions, and the handles of a device and its queue."""
        self._ffi = ffi
        functions = tuple(self._address(getattr(lib, name)) for name in _SIGNATURES)
        recorder = native.GpuRecorder(functions, self._address(device), self._address(queue))
        guarded: Callable[..., Any] = checked._make_proxy_func  # raises what wgpu says while the function runs
        self._record, self._write = guarded("record", recorder.record), guarded("write", recorder.write)
        self.submit, self.release = guarded("submit", recorder.submit), recorder.release
        self._none = np.empty((0, 5), np.uint64)

    def prepare(self, before: Sequence[CopyCall], calls: Sequence[Call], after: Sequence[CopyCall]) -> Prepared:
        """Rows of handles, offsets and sizes."""
        address = self._address
        rows = [(address(pipeline), address(group), x, y) for pipeline, group, x, y in calls]
        copies = [
            np.array([(address(a), i, address(b), j, size) for a, i, b, j, size in some], np.uint64).reshape(-1, 5)
            for some in (before, after)
        ]
        return Prepared(copies[0], np.array(rows, np.uint64).reshape(-1, 4), copies[1])

    def record(self, prepared: Prepared, start: int, stop: int) -> int:
        """Handle of the commands of a stretch."""
        calls = prepared.calls
        if start == 0 and stop == len(calls):
            return self._record(prepared.before, calls, prepared.after)  # type: ignore[no-any-return]
        before = self._none if start else prepared.before
        after = self._none if stop < len(calls) else prepared.after
        return self._record(before, calls[start:stop], after)  # type: ignore[no-any-return]

    def write(self, buffer: Any, offset: int, values: npt.NDArray[np.uint8], num_bytes: int) -> None:
        """Copy whole words into a buffer."""
        self._write(self._address(buffer), offset, values, num_bytes)

    def _address(self, pointer: Any) -> int:
        return int(self._ffi.cast("uintptr_t", pointer))


def find_player(ffi: Any, lib: Any, checked: Any, device: Any, queue: Any) -> Player:
    """C++ where it is built and wgpu has the functions that it calls; else Python, and a line of debugging says why.

    Args:
        ffi: wgpu's cffi.
        lib: wgpu's library, loaded.
        checked: its functions, raising what they say.
        device: handle of a device.
        queue: handle of its queue.
    """
    native = native_module()
    if native is None:
        _log.debug("Commands are recorded by Python: the native kernels are not built.")
    elif not hasattr(native, "GpuRecorder"):
        _log.debug("Commands are recorded by Python: the native kernels are of an older version.")
    elif not hasattr(checked, "_make_proxy_func"):
        _log.debug("Commands are recorded by Python: this wgpu catches errors in another way.")
    elif (strange := _strange_function(ffi, lib)) is not None:
        _log.debug("Commands are recorded by Python: this wgpu has another %s.", strange)
    else:
        return NativePlayer(ffi, lib, checked, device, queue, native)
    return CffiPlayer(ffi, lib, checked, device, queue)


def _strange_function(ffi: Any, lib: Any) -> str | None:
    """The first function whose signature, in the header that came with the library, is not the one known here."""
    for name, expected in _SIGNATURES.items():
        function = getattr(lib, name, None)
        kind = None if function is None else ffi.typeof(function)
        if kind is None or (kind.result.cname, *(a.cname for a in kind.args)) != expected:
            return name
    return None
