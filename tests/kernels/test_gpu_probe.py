"""Adapters are tried before they are trusted."""

import dataclasses

import numpy as np
import pytest

from understudy.kernels import gpu_probe
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_matmul import Variant
from understudy.kernels.gpu_probe import find_gpu, is_right, survey

pytestmark = pytest.mark.gpu


def test_the_adapter_that_is_asked_for_is_tried(device: GpuDevice) -> None:
    finding = find_gpu(device.adapter.name.split()[0])
    assert finding.adapter == device.adapter
    assert finding.variant is not None
    findings, _ = survey("")
    assert device.adapter in [found.adapter for found in findings]


def test_a_wrong_result_is_seen(device: GpuDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_right(device, Variant())
    true = gpu_probe.dequantize
    monkeypatch.setattr(gpu_probe, "dequantize", lambda *about: true(*about) * np.float32(1.01))
    assert not is_right(device, Variant())
    assert "wrong" in str(gpu_probe._try_adapter(device.adapter)["problem"])


def test_a_driver_that_takes_its_process_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_probe, "_run_apart", lambda wanted: ([], "exit code -11"))
    sentence = "The graphics driver is broken: listing its adapters ended with exit code -11; mend or update it."
    assert survey() == ([], sentence)
    fields = dataclasses.asdict(
        Adapter(name="X1", api="Vulkan", kind="DiscreteGPU", driver="1", features=(), max_binding_bytes=1,
                max_buffer_bytes=1, workgroup_bytes=1, max_workgroups=1, max_storage_buffers=8)
    )  # fmt: skip
    monkeypatch.setattr(gpu_probe, "_run_apart", lambda wanted: ([[fields]], "exit code -11"))
    sentence = (
        "The graphics adapter X1 (Vulkan) cannot be used: its driver is broken (a test ended with exit code -11)."
    )
    assert survey()[1] == sentence
