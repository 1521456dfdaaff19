"""Graphics adapters: which there are, what they can do, and which to take."""

import contextlib
import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from understudy.errors import GpuError

__all__ = ["MISSING_GPU", "Adapter", "choose_adapter", "find_handle", "list_adapters", "wgpu_module"]

MISSING_GPU = "the package wgpu is not installed; run: pip install 'understudy[gpu]'"
_APIS = ("Vulkan", "Metal", "D3D12")  # OpenGL shows the same adapters again, with less
_KINDS = ("DiscreteGPU", "IntegratedGPU", "Unknown", "CPU")
_FEATURES = ("immediates", "shader-f16", "subgroup", "timestamp-query")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """A graphics adapter through one of its interfaces.

    Attributes:
        name: as its driver spells it.
        api: "Vulkan", "Metal" or "D3D12".
        kind: "DiscreteGPU", "IntegratedGPU", "CPU" (a program that plays the part of one) or "Unknown".
        driver: name and version, as far as told.
        features: of WebGPU's optional features those that matter here.
        max_binding_bytes: of one storage buffer that a kernel sees.
        max_buffer_bytes: of one buffer.
        workgroup_bytes: memory that a workgroup shares.
        max_workgroups: in one dimension of a dispatch.
        max_storage_buffers: that one kernel sees.
    """

    name: str
    api: str
    kind: str
    driver: str
    features: tuple[str, ...]
    max_binding_bytes: int
    max_buffer_bytes: int
    workgroup_bytes: int
    max_workgroups: int
    max_storage_buffers: int

    @property
    def is_software(self) -> bool:
        """Whether it is a program on the CPU: right, and slower than the CPU's own kernels."""
        return self.kind == "CPU"

    def __str__(self) -> str:
        return f"{self.name} ({self.api})"


def wgpu_module() -> ModuleType:
    """The package `wgpu`, told to leave OpenGL alone.

    Raises:
        GpuError: it is not installed, or its library does not load here.
    """
    try:
        import wgpu
        from wgpu.backends.wgpu_native import extras
    except ImportError as error:
        raise GpuError(f"There is no GPU backend: {MISSING_GPU}.") from error
    except (OSError, RuntimeError) as error:
        raise GpuError(f"The package wgpu does not work here: {error}.") from error
    with contextlib.suppress(RuntimeError):  # an instance was made already, with other settings
        extras.set_instance_extras(backends=["Vulkan", "Metal", "DX12"])
    return wgpu  # type: ignore[no-any-return]


def list_adapters() -> list[Adapter]:
    """All adapters, best first; in this process, so a broken driver may take it down (see `gpu_probe`).

    Raises:
        GpuError: the package wgpu is missing.
    """
    return [adapter for adapter, _ in _handles()]


def find_handle(wanted: Adapter) -> Any:
    """What wgpu calls an adapter.

    Raises:
        GpuError: it is gone.
    """
    for adapter, handle in _handles():
        if adapter == wanted:
            return handle
    raise GpuError(f"The graphics adapter {wanted} is gone; understudy doctor lists those that are left.")


def choose_adapter(adapters: Sequence[Adapter], wanted: str = "") -> tuple[Adapter, str]:
    """Take an adapter, and say why.

    Args:
        adapters: best first.
        wanted: part of a name; "" takes the best that is a real GPU.

    Raises:
        GpuError: there is none; software is taken by name only.
    """
    named = [a for a in adapters if wanted.lower() in a.name.lower()]
    if wanted:
        if not named:
            raise GpuError(f"No graphics adapter is called {wanted!r}; there are: {_names(adapters)}.")
        return named[0], f"asked for by the name {wanted!r}"
    real = [a for a in adapters if not a.is_software]
    if real:
        rest = f", before {_names(real[1:])}" if real[1:] else ""
        return real[0], f"the best of {len(adapters)}{rest}" if len(adapters) > 1 else "the only one"
    if adapters:
        raise GpuError(
            f"The only graphics adapter is software ({adapters[0].name}), slower than the CPU's own kernels; "
            f"--backend wgpu:{adapters[0].name.split()[0]} takes it all the same."
        )
    raise GpuError(
        "No graphics adapter was found; install the GPU's driver (Linux: also libvulkan1), or use --backend cpu."
    )


def _handles() -> list[tuple[Adapter, Any]]:
    found = [(_describe(handle), handle) for handle in wgpu_module().gpu.enumerate_adapters_sync()]
    found = [(adapter, handle) for adapter, handle in found if adapter.api in _APIS]
    return sorted(found, key=lambda pair: (_KINDS.index(pair[0].kind), _APIS.index(pair[0].api)))


def _describe(handle: Any) -> Adapter:
    info, limits = handle.info, handle.limits
    kind = info["adapter_type"]
    return Adapter(
        name=info["device"] or info["description"] or "unnamed",
        api=info["backend_type"],
        kind=kind if kind in _KINDS else "Unknown",
        driver=info["description"],
        features=tuple(name for name in _FEATURES if name in handle.features),
        max_binding_bytes=limits["max-storage-buffer-binding-size"],
        max_buffer_bytes=limits["max-buffer-size"],
        workgroup_bytes=limits["max-compute-workgroup-storage-size"],
        max_workgroups=limits["max-compute-workgroups-per-dimension"],
        max_storage_buffers=limits["max-storage-buffers-per-shader-stage"],
    )


def _names(adapters: Sequence[Adapter]) -> str:
    return ", ".join(map(str, adapters)) or "none"
