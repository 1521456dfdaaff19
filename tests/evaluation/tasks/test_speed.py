import pytest

from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks import speed
from understudy.evaluation.tasks.speed import Speed
from understudy.kernels.native import native_module

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")


def test_rates_and_memory(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_PREFILL_TOKENS", 32), ("_DEPTH", 8), ("_DECODE_TOKENS", 2), ("_REPEATS", 1)):
        monkeypatch.setattr(speed, name, value)
    outcome = Speed().run(subject, lambda done, total: None)
    found = {figure.name: figure.value for figure in outcome.figures}
    assert found["speed.prefill"] > 0
    assert found["speed.decode"] > 0
    assert outcome.settings["threads"] >= 1


def test_short_contexts_are_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Speed().lacks(subject) is None
    monkeypatch.setattr(speed, "_PREFILL_TOKENS", 4096)
    assert "a context of 8192" in (Speed().lacks(subject) or "")
