"""Copies around a schedule, and commands that are recorded before they are sent."""

import numpy as np
import pytest

from understudy.errors import DeviceLostError
from understudy.kernels.gpu_device import Copy, GpuDevice
from understudy.kernels.gpu_top import top_logits

pytestmark = pytest.mark.gpu


def test_copies_frame_a_schedule_however_it_is_cut(device: GpuDevice) -> None:
    values = np.random.default_rng(0).normal(size=(1, 300)).astype(np.float32)
    source, logits, best = device.upload(values, "source"), device.buffer(1200, "logits"), device.buffer(64, "best")
    back = device.read_back(64)
    run = (top_logits(device, logits, best, count=1, vocab=300), (1, 1))
    schedule = device.schedule([run] * 3, before=[Copy(source, 0, logits, 0, 1200)], after=[Copy(best, 0, back, 0, 8)])
    for part in (slice(0, 1), slice(1, 2), slice(2, 3)):
        device.submit(schedule, part)
    expected = device.read(best, 8)
    assert expected.any()
    np.testing.assert_array_equal(device.fetch(back, 8), expected)
    np.testing.assert_array_equal(device.read(logits, 1200), values.view(np.uint8).reshape(-1))


def test_what_was_recorded_sees_what_was_written_later(device: GpuDevice) -> None:
    source, back = device.buffer(16, "source"), device.read_back(16)
    target = device.buffer(16, "target")
    run = (top_logits(device, target, device.buffer(64, "best"), count=1, vocab=4), (1, 1))
    schedule = device.schedule([run], before=[Copy(source, 0, target, 0, 16)], after=[Copy(target, 0, back, 0, 16)])
    device.record(schedule)  # never sent
    recorded = device.record(schedule)
    device.write(source, np.arange(4, dtype=np.int32))
    device.send(recorded)
    assert device.fetch(back, 16).view(np.int32).tolist() == [0, 1, 2, 3]


def test_a_copy_that_does_not_fit_is_refused(device: GpuDevice) -> None:
    source, target = device.buffer(32, "source"), device.buffer(16, "target")
    for start, to, num_bytes in ((0, 0, 32), (2, 0, 8), (28, 0, 8), (0, 12, 8), (0, 0, 6), (-4, 0, 8)):
        with pytest.raises(ValueError, match="are not words of"):
            Copy(source, start, target, to, num_bytes)


def test_a_lost_device_is_noticed_in_recording_and_in_reading(device: GpuDevice) -> None:
    lost = GpuDevice(device.adapter)
    back, source = lost.read_back(16), lost.buffer(16, "source")
    run = (top_logits(lost, source, lost.buffer(64, "best"), count=1, vocab=4), (1, 1))
    schedule = lost.schedule([run])
    lost._device.destroy()  # as a driver's reset does
    with pytest.raises(DeviceLostError):
        lost.fetch(back, 16)
    lost._is_lost = False
    with pytest.raises(DeviceLostError):
        lost.submit(schedule)
