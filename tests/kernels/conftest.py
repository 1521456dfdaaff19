"""The first graphics adapter; drivers may be software, and may take the process down: see integration/test_gpu.py."""

import pytest

from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_device import GpuDevice


@pytest.fixture(scope="session")
def device(adapter: Adapter) -> GpuDevice:
    return GpuDevice(adapter)
