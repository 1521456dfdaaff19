import numpy as np
import pytest

from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_top import top_logits

pytestmark = pytest.mark.gpu


def test_the_highest_and_of_equals_the_first(device: GpuDevice) -> None:
    logits = np.random.default_rng(0).integers(-400, 400, (3, 1003)).astype(np.float32)  # many are equal
    logits[2] = -1e30
    best = device.buffer(3 * 5 * 8, "best")
    device.submit(
        device.schedule([(top_logits(device, device.upload(logits, "logits"), best, count=5, vocab=1003), (3, 1))])
    )
    found = device.read(best).view(np.uint32)[: 3 * 5 * 2].reshape(3, 5, 2)
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found[..., 0], expected)
    np.testing.assert_array_equal(found[..., 1].copy().view(np.float32), np.take_along_axis(logits, expected, 1))
