"""The first graphics adapter; drivers may be software, and may take the process down: see integration/test_gpu.py."""

import pytest

from understudy.errors import GpuError
from understudy.kernels.gpu_adapters import list_adapters
from understudy.kernels.gpu_device import GpuDevice


@pytest.fixture(scope="session")
def device() -> GpuDevice:
    try:
        adapters = list_adapters()
    except GpuError as error:
        pytest.skip(str(error))
    if not adapters:
        pytest.skip("no graphics adapter; a software one: apt install mesa-vulkan-drivers libvulkan1")
    return GpuDevice(adapters[0])
