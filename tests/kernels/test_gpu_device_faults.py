"""What a driver refuses: the sentence, and that the device goes on."""

import subprocess
import sys

import numpy as np
import pytest

from understudy.errors import GpuError
from understudy.kernels.gpu_device import Copy, GpuDevice

pytestmark = pytest.mark.gpu

STARVED = """
import resource
import numpy as np
from understudy.errors import GpuMemoryError
from understudy.kernels.gpu_adapters import list_adapters
from understudy.kernels.gpu_device import GpuDevice

device = GpuDevice(list_adapters()[0])
words = device.upload(np.arange(4, dtype=np.int32), "words")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
kept = []
try:
    for _ in range(8):
        kept.append(device.buffer(100 << 20, "much"))
except GpuMemoryError as error:
    print(error)
assert device.read(words).view(np.int32).tolist() == [0, 1, 2, 3]
kept.clear()
print(device.num_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by Linux")
def test_a_driver_without_memory_is_survived(device: GpuDevice) -> None:
    if not device.adapter.is_software:
        pytest.skip("a real GPU's memory is not bounded by the process's")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STARVED], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    sentence, num_bytes = run.stdout.splitlines()
    assert "has no memory left (taking 104857600 bytes for much)" in sentence
    assert int(num_bytes) % (100 << 20) == 16  # what failed was not counted


def test_a_command_that_wgpu_refuses_is_named_and_the_next_ones_run(device: GpuDevice) -> None:
    source, target = device.upload(np.arange(4, dtype=np.int32), "source"), device.buffer(16, "target")
    wrong = Copy(source, 0, target, 0, 16)
    object.__setattr__(wrong, "num_bytes", 32)  # beyond both, and past our own check
    for _ in range(2):
        with pytest.raises(GpuError, match="refused"):
            device.copy(wrong)
    assert not device.is_lost
    device.copy(Copy(source, 0, target, 0, 16))
    assert device.read(target).view(np.int32).tolist() == [0, 1, 2, 3]
