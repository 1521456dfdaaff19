"""An opened graphics adapter: buffers within a budget, kernels, and runs of them."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from understudy.errors import DeviceLostError, GpuError, GpuMemoryError
from understudy.kernels.gpu_adapters import Adapter, find_handle, wgpu_module
from understudy.kernels.gpu_commands import Commands, Copy, GpuBuffer, Recorded, Schedule

__all__ = ["Copy", "Dispatch", "GpuBuffer", "GpuDevice", "Kernel", "Recorded", "Schedule"]

_UPLOAD_BYTES = 8 << 20
_KEPT_BYTES = 8 << 20
_LIMITS = {
    "max-storage-buffer-binding-size": "max_binding_bytes",
    "max-buffer-size": "max_buffer_bytes",
    "max-compute-workgroup-storage-size": "workgroup_bytes",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A compiled WGSL program.

    Attributes:
        handle: wgpu's pipeline.
        bindings: numbers of the storage buffers that it sees, ascending.
        label: its name.
    """

    handle: Any
    bindings: tuple[int, ...]
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Dispatch:
    """A kernel with its buffers, ready to run.

    Attributes:
        kernel: what runs.
        group: wgpu's bind group.
        buffers: what the kernel sees, by binding.
    """

    kernel: Kernel
    group: Any
    buffers: Mapping[int, GpuBuffer]


class GpuDevice:
    """An opened adapter; not thread-safe.

    Attributes:
        adapter: which.
        num_bytes: of all buffers now.
        max_bytes: what all buffers together may take; None for no limit but the adapter's.
    """

    def __init__(self, adapter: Adapter, *, max_bytes: int | None = None) -> None:
        """Open the adapter with all of its limits.

        Raises:
            GpuError: it cannot be opened.
        """
        self._wgpu = wgpu_module()
        self.adapter = adapter
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._is_lost = False
        self._kernels: dict[str, Kernel] = {}
        features = [name for name in ("subgroup", "timestamp-query") if name in adapter.features]
        limits = {name: getattr(adapter, field) for name, field in _LIMITS.items()}
        try:
            self._device = find_handle(adapter).request_device_sync(required_features=features, required_limits=limits)
        except (RuntimeError, self._wgpu.GPUError) as error:
            raise GpuError(f"The graphics adapter {adapter} cannot be opened: {_gist(error)}.") from error
        self._commands = Commands(self._device)
        self._read_back: GpuBuffer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all memory back; also when the device is lost."""
        self._is_lost = True
        self._read_back = None
        self._kernels.clear()
        self._device.destroy()

    @property
    def is_lost(self) -> bool:
        """Whether nothing can run here any more."""
        return self._is_lost

    def buffer(self, num_bytes: int, label: str) -> GpuBuffer:
        """Take memory, zeroed.

        Args:
            num_bytes: rounded up to a multiple of 16.
            label: what for.

        Raises:
            GpuMemoryError: the limit, or the adapter, does not give that much.
            DeviceLostError: the device is gone.
        """
        num_bytes = max(16, -(-num_bytes // 16) * 16)
        if num_bytes > min(self.adapter.max_buffer_bytes, self.adapter.max_binding_bytes):
            raise GpuMemoryError(
                f"{label} would take {num_bytes} bytes; {self.adapter} gives at most "
                f"{min(self.adapter.max_buffer_bytes, self.adapter.max_binding_bytes)} in one piece."
            )
        if self.max_bytes is not None and self.num_bytes + num_bytes > self.max_bytes:
            raise GpuMemoryError(
                f"{label} would take {num_bytes} bytes more than the {self.num_bytes} in use; the limit is "
                f"{self.max_bytes}."
            )
        usage = self._wgpu.BufferUsage
        with self._errors(f"taking {num_bytes} bytes for {label}"):
            handle = self._device.create_buffer(
                label=label, size=num_bytes, usage=usage.STORAGE | usage.UNIFORM | usage.COPY_SRC | usage.COPY_DST
            )
        self.num_bytes += num_bytes
        return GpuBuffer(handle, num_bytes, label)

    def upload(self, values: npt.NDArray[Any], label: str) -> GpuBuffer:
        """Copy an array into a buffer of its own.

        Raises:
            GpuMemoryError: as `buffer`.
            DeviceLostError: the device is gone.
        """
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        target = self.buffer(raw.size, label)
        self.write(target, raw)
        return target

    def write(self, target: GpuBuffer, values: npt.NDArray[Any], *, offset: int = 0) -> None:
        """Copy an array into a buffer before anything runs that is submitted later.

        Args:
            target: where to.
            values: whole words of 4 bytes but at the end, where zeros fill the last one.
            offset: bytes, a multiple of 4.
        """
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if offset % 4 or offset + raw.size > target.num_bytes:
            raise ValueError(f"{raw.size} bytes at {offset} do not fit {target.label} ({target.num_bytes} bytes)")
        with self._errors(f"writing {target.label}"):
            for start in range(0, raw.size, _UPLOAD_BYTES):
                part = raw[start : start + _UPLOAD_BYTES]
                if part.size % 4:
                    part = np.concatenate([part, np.zeros(-part.size % 4, np.uint8)])
                self._commands.write(target, part, offset + start)
                if raw.size > _UPLOAD_BYTES:  # or the copies that wait would double the memory
                    self._device.queue.submit([])
                    self._device._poll_wait()

    def kernel(self, label: str, pieces: Sequence[str], constants: Mapping[str, int | float]) -> Kernel:
        """Compile a program, once.

        Args:
            label: its name.
            pieces: files of `kernels/wgsl`, without the ending, put together in this order.
            constants: whole numbers become u32, others f32.

        Raises:
            GpuError: the adapter's driver refuses it.
            DeviceLostError: the device is gone.
        """
        source = _source(pieces, constants)
        found = self._kernels.get(source)
        if found is None:
            with self._errors(f"compiling the kernel {label}"):
                module = self._device.create_shader_module(label=label, code=source)
                handle = self._device.create_compute_pipeline(
                    label=label, layout="auto", compute={"module": module, "entry_point": "main"}
                )
            found = self._kernels[source] = Kernel(handle, _bindings(source), label)
        return found

    def dispatch(self, kernel: Kernel, buffers: Sequence[GpuBuffer | None]) -> Dispatch:
        """Tie a kernel to its buffers.

        Args:
            kernel: what will run.
            buffers: by binding; those that the kernel does not see are left out.

        Raises:
            GpuError: a buffer is missing or too large to be seen.
            DeviceLostError: the device is gone.
        """
        seen: dict[int, GpuBuffer] = {}
        for binding in kernel.bindings:
            buffer = buffers[binding] if binding < len(buffers) else None
            if buffer is None:
                raise GpuError(f"The kernel {kernel.label} needs a buffer at binding {binding}.")
            seen[binding] = buffer
        entries = [{"binding": n, "resource": {"buffer": b.handle}} for n, b in seen.items()]
        with self._errors(f"binding buffers to {kernel.label}"):
            group = self._device.create_bind_group(layout=kernel.handle.get_bind_group_layout(0), entries=entries)
        return Dispatch(kernel, group, seen)

    def schedule(
        self,
        runs: Sequence[tuple[Dispatch, tuple[int, int]]],
        *,
        before: Sequence[Copy] = (),
        after: Sequence[Copy] = (),
    ) -> Schedule:
        """Check dispatches and get them ready to be submitted again and again.

        Args:
            runs: what, in order, and how many workgroups in x and y; each runs after all writes of those before.
            before: copies before the first.
            after: copies after the last.

        Raises:
            GpuError: too many workgroups.
        """
        calls = []
        for dispatch, size in runs:
            if not all(0 < n <= self.adapter.max_workgroups for n in size):
                raise GpuError(
                    f"{dispatch.kernel.label} would run {size} workgroups; the limit is "
                    f"{self.adapter.max_workgroups} a dimension."
                )
            calls.append((dispatch.kernel.handle._internal, dispatch.group._internal, *size))
        return self._commands.schedule(calls, [dispatch for dispatch, _ in runs], before, after)

    def record(self, schedule: Schedule, part: slice = slice(None)) -> Recorded:
        """Get a schedule, or a stretch of it, ready to be sent once; nothing runs yet.

        Raises:
            DeviceLostError: the device is gone.
        """
        with self._errors("recording work"):
            return self._commands.record(schedule, part)

    def send(self, recorded: Recorded) -> None:
        """Run what was recorded; does not wait.

        Raises:
            DeviceLostError: the device is gone.
        """
        with self._errors("submitting work"):
            self._commands.send(recorded)

    def submit(self, schedule: Schedule, part: slice = slice(None)) -> None:
        """Run a schedule, or a stretch of it; does not wait.

        Raises:
            DeviceLostError: the device is gone.
        """
        self.send(self.record(schedule, part))

    def wait(self) -> None:
        """Return when all that was submitted is done.

        Raises:
            DeviceLostError: the device is gone.
        """
        with self._errors("waiting"):
            self._device._poll_wait()

    def copy(self, *copies: Copy) -> None:
        """Copy from buffer to buffer, after what was submitted before; does not wait.

        Raises:
            DeviceLostError: the device is gone.
        """
        with self._errors("copying"):
            self._commands.copy(copies)

    def read_back(self, num_bytes: int) -> GpuBuffer:
        """Memory of the machine's, beside the budget: what is copied there can be fetched.

        Raises:
            GpuMemoryError: there is none.
            DeviceLostError: the device is gone.
        """
        usage = self._wgpu.BufferUsage
        with self._errors(f"taking {num_bytes} bytes to read back"):
            handle = self._device.create_buffer(size=num_bytes, usage=usage.MAP_READ | usage.COPY_DST)
        return GpuBuffer(handle, num_bytes, "read back")

    def fetch(self, source: GpuBuffer, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Wait for what was submitted, and take the beginning of what was read back.

        Raises:
            DeviceLostError: the device is gone.
        """
        with self._errors(f"reading {source.label}"):
            return self._commands.fetch(source, num_bytes)

    def read(self, source: GpuBuffer, num_bytes: int | None = None) -> npt.NDArray[np.uint8]:
        """Wait for what was submitted, and copy a buffer's beginning out.

        Raises:
            DeviceLostError: the device is gone.
        """
        size = source.num_bytes if num_bytes is None else num_bytes
        if not size:
            return np.empty(0, np.uint8)
        words = -(-size // 4) * 4
        target = self._read_back
        if target is None or target.num_bytes < words:
            target = self.read_back(words)
            if words <= _KEPT_BYTES:
                self._read_back = target
        self.copy(Copy(source, 0, target, 0, words))
        return self.fetch(target, words)[:size]

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Say what failed in our own words, and remember a lost device."""
        if self._is_lost:
            raise DeviceLostError(f"The graphics adapter {self.adapter} is lost.")
        try:
            yield
        except self._wgpu.GPUError as error:
            text = _gist(error)
            if "device is lost" in str(error).lower():
                self._is_lost = True
                raise DeviceLostError(f"The graphics adapter {self.adapter} was lost while {doing}: {text}.") from error
            if isinstance(error, self._wgpu.GPUOutOfMemoryError) or "out of memory" in str(error).lower():
                raise GpuMemoryError(f"{self.adapter} has no memory left ({doing}): {text}.") from error
            raise GpuError(f"{self.adapter} refused ({doing}): {text}.") from error


def _source(pieces: Sequence[str], constants: Mapping[str, int | float]) -> str:
    lines = [
        f"const {name}: f32 = {value!r};" if isinstance(value, float) else f"const {name}: u32 = {value}u;"
        for name, value in constants.items()
    ]
    folder = files("understudy.kernels").joinpath("wgsl")
    texts = [folder.joinpath(f"{piece}.wgsl").read_text("utf-8") for piece in pieces]
    return "\n".join([*lines, *texts])


def _bindings(source: str) -> tuple[int, ...]:
    """The numbers behind `@binding`; every piece declares only what it uses."""
    parts = source.split("@binding(")[1:]
    return tuple(sorted(int(part[: part.index(")")]) for part in parts))


def _gist(error: Exception) -> str:
    """The lines of an error that say what is wrong; the first ones name functions of wgpu."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and line not in ("Validation Error", "Caused by:")]
    return "; ".join(telling[:4]).rstrip(".") or type(error).__name__
