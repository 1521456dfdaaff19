"""wgpu's commands by its C functions: a schedule is recorded, handed over, and its results are read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.kernels.gpu_adapters import wgpu_module
from understudy.kernels.gpu_players import Call, CopyCall, Player, Prepared, find_player

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
        prepared: as the player that made them takes them.
        num_calls: dispatches.
        kept: what the handles in them belong to, kept alive.
    """

    prepared: Prepared
    num_calls: int
    kept: tuple[Any, ...]


class Recorded:
    """Commands that can be handed over, once; given back with this if nobody does."""

    __slots__ = ("_commands", "_player", "schedule")

    def __init__(self, player: Player, commands: Any, schedule: Schedule) -> None:
        """Hold what a player recorded, and what it belongs to."""
        self._player, self._commands, self.schedule = player, commands, schedule

    def submit(self) -> None:
        """Hand them over.

        Raises:
            ValueError: they were handed over before.
        """
        commands, self._commands = self._commands, None
        if commands is None:
            raise ValueError("Recorded commands can be handed over once.")
        self._player.submit(commands)

    def __del__(self) -> None:
        """Give back what was never handed over."""
        if self._commands is not None:
            self._player.release(self._commands)


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
        self.player: Player = find_player(*self.player_arguments)
        self._error = wgpu_module().GPUError
        statuses = self._statuses = list[int]()

        @ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)")  # type: ignore[untyped-decorator]
        def on_mapped(status: int, *_: Any) -> None:
            statuses.append(status)  # and not of self: cffi would keep it for good

        self._on_mapped = on_mapped

    @property
    def player_arguments(self) -> tuple[Any, ...]:
        """What a player is made of: wgpu's cffi, library and checked functions, the device, and its queue."""
        return self._ffi, self._lib, self._checked, self._raw, self._queue

    def schedule(
        self, calls: Sequence[Call], kept: Sequence[Any], before: Sequence[Copy], after: Sequence[Copy]
    ) -> Schedule:
        """Get calls ready to be recorded again and again."""
        prepared = self.player.prepare(_copy_calls(before), calls, _copy_calls(after))
        return Schedule(prepared, len(calls), (*kept, *before, *after))

    def record(self, schedule: Schedule, part: slice) -> Recorded:
        """Record a stretch of a schedule; copies go with its first and last dispatch."""
        start, stop, _ = part.indices(schedule.num_calls)
        return Recorded(self.player, self.player.record(schedule.prepared, start, stop), schedule)

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy after what was handed over before."""
        self.record(self.schedule((), (), copies, ()), slice(None)).submit()

    def write(self, target: GpuBuffer, values: npt.NDArray[np.uint8], num_bytes: int, offset: int = 0) -> None:
        """Copy the beginning of whole words into a buffer before anything that is handed over later."""
        self.player.write(target.handle._internal, offset, values, num_bytes)

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


def _copy_calls(copies: Sequence[Copy]) -> list[CopyCall]:
    return [(c.source.handle._internal, c.start, c.target.handle._internal, c.to, c.num_bytes) for c in copies]
