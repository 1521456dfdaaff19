"""Which adapter is taken, and why."""

import dataclasses
import sys

import pytest

from understudy.errors import GpuError
from understudy.kernels.gpu_adapters import Adapter, choose_adapter, list_adapters

REAL = Adapter(
    name="GeForce 9", api="Vulkan", kind="DiscreteGPU", driver="1.0", features=("subgroup",), max_binding_bytes=1 << 31,
    max_buffer_bytes=1 << 32, workgroup_bytes=49152, max_workgroups=65535, max_storage_buffers=16,
)  # fmt: skip
SMALL = dataclasses.replace(REAL, name="Graphics 500", kind="IntegratedGPU")
SOFTWARE = dataclasses.replace(REAL, name="llvmpipe (LLVM 15)", kind="CPU")


def test_the_best_and_why() -> None:
    assert choose_adapter([REAL]) == (REAL, "the only one")
    chosen, why = choose_adapter([REAL, SMALL, SOFTWARE])
    assert (chosen, why) == (REAL, "the best of 3, before Graphics 500 (Vulkan)")
    assert choose_adapter([REAL, SMALL], "500")[0] is SMALL
    with pytest.raises(GpuError, match=r"'radeon'.*GeForce 9"):
        choose_adapter([REAL], "radeon")


def test_software_is_taken_by_name_only() -> None:
    with pytest.raises(GpuError, match="--backend wgpu:llvmpipe takes it"):
        choose_adapter([SOFTWARE])
    assert choose_adapter([SOFTWARE], "LLVMpipe")[0] is SOFTWARE
    with pytest.raises(GpuError, match="No graphics adapter was found"):
        choose_adapter([])


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wgpu", None)
    with pytest.raises(GpuError, match="pip install 'understudy\\[gpu\\]'"):
        list_adapters()
