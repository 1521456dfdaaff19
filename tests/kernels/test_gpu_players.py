"""Two ways to record a pass: the same bits, and what is not understood is left to Python."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from understudy.kernels import gpu_players
from understudy.kernels.gpu_device import Copy, GpuDevice
from understudy.kernels.gpu_players import CffiPlayer, NativePlayer, find_player
from understudy.kernels.gpu_top import top_logits
from understudy.kernels.native import native_module

has_native = pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")


@has_native
@pytest.mark.gpu
def test_both_record_the_same(device: GpuDevice) -> None:
    draw = np.random.default_rng(0)
    logits = [device.upload(draw.normal(size=(2, 300)).astype(np.float32), "logits") for _ in range(3)]
    commands = device._commands
    found = []
    for player in (CffiPlayer(*commands.player_arguments), find_player(*commands.player_arguments)):
        commands.player = player
        best = [device.buffer(256, "best") for _ in logits]
        runs = [
            (top_logits(device, x, y, count=count, vocab=300), (2, 1))  # two of one pipeline, then another
            for x, y, count in zip(logits, best, (5, 5, 3), strict=True)
        ]
        schedule = device.schedule(runs)
        device.submit(schedule, slice(0, 2))
        device.submit(schedule, slice(2, None))
        found.append([device.read(y) for y in best])
    assert isinstance(commands.player, NativePlayer)
    assert any(row.any() for row in found[0])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.gpu
def test_python_records_where_cpp_cannot(
    device: GpuDevice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=gpu_players.__name__)
    ffi, lib, *rest = device._commands.player_arguments
    other = {name: getattr(lib, name) for name in gpu_players._SIGNATURES}
    changed = ffi.cast("void(*)(void *, uint64_t)", other["wgpuComputePassEncoderSetBindGroup"])
    other["wgpuComputePassEncoderSetBindGroup"] = changed
    if native_module() is not None:
        assert isinstance(find_player(ffi, SimpleNamespace(**other), *rest), CffiPlayer)
        assert "this wgpu has another wgpuComputePassEncoderSetBindGroup" in caplog.text
        assert isinstance(find_player(ffi, lib, SimpleNamespace(), *rest[1:]), CffiPlayer)
        assert "catches errors in another way" in caplog.text
    monkeypatch.setattr(gpu_players, "native_module", SimpleNamespace)
    assert isinstance(find_player(ffi, lib, *rest), CffiPlayer)
    assert "of an older version" in caplog.text
    monkeypatch.setattr(gpu_players, "native_module", lambda: None)
    assert isinstance(find_player(ffi, lib, *rest), CffiPlayer)
    assert "not built" in caplog.text


@pytest.mark.gpu
def test_commands_go_once(device: GpuDevice) -> None:
    words = device.upload(np.arange(8, dtype=np.int32), "words")
    schedule = device._commands.schedule((), (), [Copy(words, 0, device.buffer(16, "target"), 0, 16)], ())
    recorded = device.record(schedule)
    device.send(recorded)
    with pytest.raises(ValueError, match="once"):
        device.send(recorded)


@has_native
def test_nothing_is_called_with_what_is_no_handle() -> None:
    native = native_module()
    assert native is not None
    for functions, device, queue in (((1,) * 12 + (0,), 1, 1), ((1,) * 13, 0, 1), ((1,) * 13, 1, 0)):
        with pytest.raises(ValueError, match="null"):
            native.GpuRecorder(functions, device, queue)
    recorder = native.GpuRecorder((1,) * 13, 1, 1)
    calls, copies = np.ones((1, 4), np.uint64), np.ones((1, 5), np.uint64)
    for row in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1 << 32, 1)):
        with pytest.raises(ValueError, match=r"null|workgroups"):
            recorder.record(copies[:0], np.array([row], np.uint64), copies[:0])
    for row in ((0, 0, 1, 0, 4), (1, 0, 0, 0, 4)):
        with pytest.raises(ValueError, match="null"):
            recorder.record(copies[:0], calls[:0], np.array([row], np.uint64))
    with pytest.raises(TypeError):
        recorder.record(copies[:0], np.ones((1, 3), np.uint64), copies[:0])
    with pytest.raises(ValueError, match="null"):
        recorder.submit(0)
    with pytest.raises(ValueError, match="more bytes"):
        recorder.write(1, 0, np.zeros(3, np.uint8), 4)
