"""An opened graphics adapter: buffers within a budget, kernels, and runs of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from understudy.errors import DeviceLostError, GpuError, GpuMemoryError
from understudy.kernels.gpu_adapters import Adapter, find_handle, wgpu_module
from understudy.kernels.gpu_commands import Commands, Copy, GpuBuffer, Recorded, Schedule

__all__ = ["Bound", "Copy", "Dispatch", "GpuBuffer", "GpuDevice", "Kernel", "Recorded", "Schedule"]

_UPLOAD_BYTES = 8 << 20
_KEPT_BYTES = 8 << 20
_NO_MEMORY = ("out of memory", "not enough memory")  # the latter as an error of validation
_UNIFORM_BYTES = 512
_BINDING_TYPES = {"read": "read-only-storage", "write": "storage", "uniform": "uniform"}
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
        kinds: of all buffers that are bound where it runs; None where it has a group of its own.
    """

    handle: Any
    bindings: tuple[int, ...]
    label: str
    kinds: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """Buffers that several kernels share.

    Attributes:
        kinds: what kernels may do with each, see `GpuDevice.bind`.
        group: wgpu's bind group.
        buffers: by binding.
    """

    kinds: tuple[str, ...]
    group: Any
    buffers: tuple[GpuBuffer, ...]


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
        self._layouts: dict[tuple[str, ...], tuple[Any, Any]] = {}
        features = [name for name in ("subgroup", "timestamp-query") if name in adapter.features]
        limits = {name: getattr(adapter, field) for name, field in _LIMITS.items()}
        try:
            self._device = find_handle(adapter).request_device_sync(required_features=features, required_limits=limits)
        except (RuntimeError, self._wgpu.GPUError) as error:
            raise GpuError(f"The graphics adapter {adapter} cannot be opened: {_gist(error)}.") from error
        self._commands = Commands(self._device)
        self._writing, self._recording, self._sending = (
            _Errors(self, doing) for doing in ("writing words", "recording work", "submitting work")
        )
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
        self._layouts.clear()
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
                self._commands.write(target, part, part.size, offset + start)
                if raw.size > _UPLOAD_BYTES:  # or the copies that wait would double the memory
                    self._device.queue.submit([])
                    self._device._poll_wait()

    def write_words(self, target: GpuBuffer, words: npt.NDArray[np.uint8], num_bytes: int) -> None:
        """Copy the beginning of an array to that of a buffer, as `write` does, in little time.

        Args:
            target: where to.
            words: contiguous bytes.
            num_bytes: how many, a multiple of 4.
        """
        if num_bytes % 4 or num_bytes > target.num_bytes:
            raise ValueError(f"{num_bytes} bytes do not fit {target.label} ({target.num_bytes} bytes)")
        with self._writing:
            self._commands.write(target, words, num_bytes)

    def kernel(
        self,
        label: str,
        pieces: Sequence[str],
        constants: Mapping[str, int | float],
        *,
        kinds: tuple[str, ...] | None = None,
    ) -> Kernel:
        """Compile a program, once.

        Args:
            label: its name.
            pieces: files of `kernels/wgsl`, without the ending, put together in this order.
            constants: whole numbers become u32, others f32.
            kinds: of the buffers that it shares with other kernels; None gives it a group of its own.

        Raises:
            GpuError: the adapter's driver refuses it.
            DeviceLostError: the device is gone.
        """
        source = _source(pieces, constants)
        found = self._kernels.get(source)
        if found is None:
            with self._errors(f"compiling the kernel {label}"):
                module = self._device.create_shader_module(label=label, code=source)
                layout = "auto" if kinds is None else self._layout(kinds)[1]
                handle = self._device.create_compute_pipeline(
                    label=label, layout=layout, compute={"module": module, "entry_point": "main"}
                )
            found = self._kernels[source] = Kernel(handle, _bindings(source), label, kinds)
        return found

    def bind(self, kinds: tuple[str, ...], buffers: Sequence[GpuBuffer]) -> Bound:
        """Tie buffers together, for kernels that share them.

        Args:
            kinds: of each "read", "write" or "uniform"; kernels see the first 512 bytes of the last kind.
            buffers: by binding.

        Raises:
            GpuError: a buffer is too large to be seen.
            DeviceLostError: the device is gone.
        """
        entries = []
        for n, (kind, buffer) in enumerate(zip(kinds, buffers, strict=True)):
            seen = {"offset": 0, "size": _UNIFORM_BYTES} if kind == "uniform" else {}
            entries.append({"binding": n, "resource": {"buffer": buffer.handle, **seen}})
        with self._errors("binding buffers"):
            group = self._device.create_bind_group(layout=self._layout(kinds)[0], entries=entries)
        return Bound(kinds, group, tuple(buffers))

    def _layout(self, kinds: tuple[str, ...]) -> tuple[Any, Any]:
        """Wgpu's layouts of a bind group of these kinds, and of pipelines that use it."""
        found = self._layouts.get(kinds)
        if found is None:
            entries = [
                {"binding": n, "visibility": self._wgpu.ShaderStage.COMPUTE, "buffer": {"type": _BINDING_TYPES[kind]}}
                for n, kind in enumerate(kinds)
            ]
            group = self._device.create_bind_group_layout(entries=entries)
            found = self._layouts[kinds] = group, self._device.create_pipeline_layout(bind_group_layouts=[group])
        return found

    def dispatch(self, kernel: Kernel, buffers: Sequence[GpuBuffer | None] | Bound) -> Dispatch:
        """Tie a kernel to its buffers.

        Args:
            kernel: what will run.
            buffers: by binding, without those that the kernel does not see; or what it shares with others.

        Raises:
            GpuError: a buffer is missing or too large to be seen.
            DeviceLostError: the device is gone.
        """
        if isinstance(buffers, Bound):
            if buffers.kinds != kernel.kinds:
                raise GpuError(f"The kernel {kernel.label} shares buffers {kernel.kinds}, got {buffers.kinds}.")
            return Dispatch(kernel, buffers.group, dict(enumerate(buffers.buffers)))
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
        with self._recording:
            return self._commands.record(schedule, part)

    def send(self, recorded: Recorded) -> None:
        """Run what was recorded; does not wait.

        Raises:
            DeviceLostError: the device is gone.
        """
        with self._sending:
            recorded.submit()

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

    def _errors(self, doing: str) -> "_Errors":
        return _Errors(self, doing)

    def translate(self, error: Exception, doing: str) -> GpuError:
        """What failed in our own words; a lost device is remembered."""
        text = _gist(error)
        if "device is lost" in str(error).lower():
            self._is_lost = True
            return DeviceLostError(f"The graphics adapter {self.adapter} was lost while {doing}: {text}.")
        if isinstance(error, self._wgpu.GPUOutOfMemoryError) or any(
            words in str(error).lower() for words in _NO_MEMORY
        ):
            return GpuMemoryError(f"{self.adapter} has no memory left ({doing}): {text}.")
        return GpuError(f"{self.adapter} refused ({doing}): {text}.")


class _Errors:
    """Turns wgpu's errors into ours; a class, for `contextlib` takes microseconds of each token."""

    __slots__ = ("_device", "_doing")

    def __init__(self, device: GpuDevice, doing: str) -> None:
        self._device, self._doing = device, doing

    def __enter__(self) -> None:
        if self._device._is_lost:
            raise DeviceLostError(f"The graphics adapter {self._device.adapter} is lost.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is not None and isinstance(error, Exception) and isinstance(error, wgpu_module().GPUError):
            raise self._device.translate(error, self._doing) from error


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
