"""A device within its budget, and what goes wrong said in words."""

import numpy as np
import pytest

from understudy.errors import DeviceLostError, GpuError, GpuMemoryError
from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_top import top_logits

pytestmark = pytest.mark.gpu


def test_bytes_come_back(device: GpuDevice) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8 << 20) + 5, np.uint8)  # more than is written at once
    np.testing.assert_array_equal(device.read(device.upload(values, "bytes"))[: values.size], values)


def test_the_budget_is_never_exceeded(device: GpuDevice) -> None:
    small = GpuDevice(device.adapter, max_bytes=1000)
    small.buffer(600, "first")
    with pytest.raises(GpuMemoryError, match="second would take 512 bytes more than the 608 in use; the limit is 1000"):
        small.buffer(512, "second")
    assert small.num_bytes == 608
    small.buffer(300, "third")
    small.close()


def test_an_allocation_that_fails_is_survived(device: GpuDevice) -> None:
    with pytest.raises(GpuMemoryError, match="in one piece"):
        device.buffer(device.adapter.max_binding_bytes + 16, "too much")
    assert device.read(device.upload(np.arange(4, dtype=np.int32), "little")).view(np.int32).tolist() == [0, 1, 2, 3]


def test_a_wrong_kernel_and_missing_buffers_are_refused(device: GpuDevice) -> None:
    with pytest.raises(GpuError, match="compiling the kernel broken"):
        device.kernel("broken", ["attention"], {})
    logits = device.buffer(64, "logits")
    kernel = device.kernel("top logits", ["top"], {"COUNT": 1, "V": 16})
    with pytest.raises(GpuError, match="binding 1"):
        device.dispatch(kernel, [logits])
    with pytest.raises(GpuError, match="limit"):
        device.submit(device.schedule([(top_logits(device, logits, logits, count=1, vocab=16), (70000, 1))]))
    with pytest.raises(ValueError, match="do not fit"):
        device.write(logits, np.zeros(17, np.float32))
    for num_bytes in (68, 6):
        with pytest.raises(ValueError, match="do not fit"):
            device.write_words(logits, np.zeros(80, np.uint8), num_bytes)


def test_a_lost_device_says_so(device: GpuDevice) -> None:
    lost = GpuDevice(device.adapter)
    words = lost.buffer(64, "words")
    lost._device.destroy()  # as a driver's reset does
    with pytest.raises(DeviceLostError):
        lost.read(words)
    assert lost.is_lost
    with pytest.raises(DeviceLostError):
        lost.write(words, np.zeros(4, np.float32))
