"""wgpu's commands by its C functions: a schedule is recorded, handed over, and its results are read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.kernels.gpu_adapters import wgpu_module
from understudy.kernels.gpu_players import Call, Player, find_player

__all__ = ["Commands", "Copy", "GpuBuffer", "Recorded", "Schedule"]


@dataclasses.dataclass(frozen=True, eq=False)
class GpuBuffer:
    """Memory of the adapter.

    Attributes:
        handle: wgpu's.
        num_bytes: its size, a multiple of 4.
        label: what it is for.
    """

    handle: Any
    num_bytes: int
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Copy:
    """A stretch of one buffer that goes into another.

    Attributes:
        source: from.
        start: offset in it, bytes, a multiple of 4.
        target: to; not the same buffer.
        to: offset in it, likewise.
        num_bytes: likewise.

    Raises:
        ValueError: it does not fit.
    """

    source: GpuBuffer
    start: int
    target: GpuBuffer
    to: int
    num_bytes: int

    def __post_init__(self) -> None:
        for at, buffer in ((self.start, self.source), (self.to, self.target)):
            if (at | self.num_bytes) % 4 or at < 0 or at + self.num_bytes > buffer.num_bytes:
                raise ValueError(
                    f"{self.num_bytes} bytes at {at} are not words of {buffer.label} ({buffer.num_bytes} bytes)"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Dispatches that were checked; made by `GpuDevice.schedule`.

    Attributes:
        calls: as the player that made them takes them.
        num_calls: how many.
        kept: what the handles in them belong to, kept alive.
        before: copies before the first of them.
        after: copies after the last.
    """

    calls: Any
    num_calls: int
    kept: tuple[Any, ...]
    before: tuple[Copy, ...] = ()
    after: tuple[Copy, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """Commands that can be handed over, once.

    Attributes:
        handle: wgpu's command buffer, given back with this.
        schedule: what they belong to, kept alive.
    """

    handle: Any
    schedule: Schedule


class Commands:
    """The commands of one device. Errors are wgpu's."""

    def __init__(self, device: Any) -> None:
        """Take the device's functions.

        Args:
            device: wgpu's.
        """
        from wgpu.backends.wgpu_native import ffi, lib
        from wgpu.backends.wgpu_native._api import libf

        self._ffi, self._lib, self._checked = ffi, lib, libf
        self._device, self._raw, self._queue = device, device._internal, device.queue._internal
        self.player: Player = find_player(ffi, lib)
        self._error = wgpu_module().GPUError
        statuses = self._statuses = list[int]()

        @ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)")  # type: ignore[untyped-decorator]
        def on_mapped(status: int, *_: Any) -> None:
            statuses.append(status)  # and not of self: cffi would keep it for good

        self._on_mapped = on_mapped

    def schedule(
        self, calls: Sequence[Call], kept: Sequence[Any], before: Sequence[Copy], after: Sequence[Copy]
    ) -> Schedule:
        """Get calls ready to be recorded again and again."""
        return Schedule(self.player.prepare(calls), len(calls), tuple(kept), tuple(before), tuple(after))

    def record(self, schedule: Schedule, part: slice) -> Recorded:
        """Record a stretch of a schedule; copies go with its first and last dispatch."""
        checked, lib, null = self._checked, self._lib, self._ffi.NULL
        start, stop, _ = part.indices(schedule.num_calls)
        encoder = checked.wgpuDeviceCreateCommandEncoder(self._raw, null)
        try:
            if start == 0:
                self._copy(encoder, schedule.before)
            compute_pass = lib.wgpuCommandEncoderBeginComputePass(encoder, null)  # `finish` tells what was wrong
            try:
                self.player.play(compute_pass, schedule.calls[start:stop])
                lib.wgpuComputePassEncoderEnd(compute_pass)
            finally:
                lib.wgpuComputePassEncoderRelease(compute_pass)
            if stop == schedule.num_calls:
                self._copy(encoder, schedule.after)
            handle = checked.wgpuCommandEncoderFinish(encoder, null)
        finally:
            lib.wgpuCommandEncoderRelease(encoder)
        return Recorded(self._ffi.gc(handle, lib.wgpuCommandBufferRelease), schedule)

    def send(self, recorded: Recorded) -> None:
        """Hand recorded commands over."""
        self._checked.wgpuQueueSubmit(self._queue, 1, self._ffi.new("WGPUCommandBuffer *", recorded.handle))

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy after what was handed over before."""
        encoder = self._checked.wgpuDeviceCreateCommandEncoder(self._raw, self._ffi.NULL)
        try:
            self._copy(encoder, copies)
            handle = self._checked.wgpuCommandEncoderFinish(encoder, self._ffi.NULL)
        finally:
            self._lib.wgpuCommandEncoderRelease(encoder)
        self.send(Recorded(self._ffi.gc(handle, self._lib.wgpuCommandBufferRelease), Schedule((), 0, tuple(copies))))

    def write(self, target: GpuBuffer, values: npt.NDArray[Any], offset: int) -> None:
        """Copy whole words into a buffer before anything that is handed over later."""
        at = self._ffi.cast("uint8_t *", values.ctypes.data)
        self._checked.wgpuQueueWriteBuffer(self._queue, target.handle._internal, offset, at, values.nbytes)

    def fetch(self, source: GpuBuffer, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Wait for all that was handed over, and take the beginning of a buffer that may be mapped."""
        checked, ffi, raw = self._checked, self._ffi, source.handle._internal
        told = ffi.new("WGPUBufferMapCallbackInfo *")
        told.mode, told.callback = self._lib.WGPUCallbackMode_AllowProcessEvents, self._on_mapped
        self._statuses.clear()
        checked.wgpuBufferMapAsync(raw, self._lib.WGPUMapMode_Read, 0, num_bytes, told[0])
        success = self._lib.WGPUMapAsyncStatus_Success
        try:
            checked.wgpuDevicePoll(self._raw, True, ffi.NULL)
            if self._statuses != [success]:
                raise self._error(f"The device is lost: {source.label} cannot be read ({self._statuses}).")
            at = checked.wgpuBufferGetMappedRange(raw, 0, num_bytes)
            return np.frombuffer(ffi.buffer(at, num_bytes), np.uint8).copy()
        finally:
            if self._statuses in ([], [success]):  # whatever happened: nothing may be copied to it while it is mapped
                checked.wgpuBufferUnmap(raw)

    def _copy(self, encoder: Any, copies: Sequence[Copy]) -> None:
        for copy in copies:
            self._lib.wgpuCommandEncoderCopyBufferToBuffer(
                encoder, copy.source.handle._internal, copy.start, copy.target.handle._internal, copy.to, copy.num_bytes
            )
