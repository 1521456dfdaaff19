"""Which backend runs a model, and why."""

import pytest

from understudy.errors import EngineError
from understudy.kernels.native import native_module
from understudy.model.backends import open_backend
from understudy.model.native_backend import CpuBackend, why_not_native
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_config, tiny_model


def test_the_compiled_kernels_where_they_are() -> None:
    model = tiny_model()
    expected = ReferenceBackend if native_module() is None else CpuBackend
    assert isinstance(open_backend(model.config, model.weights), expected)
    assert isinstance(open_backend(model.config, model.weights, "reference"), ReferenceBackend)


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_what_it_cannot_run_it_refuses_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(head_dim=20)
    assert "multiple of 16" in (why_not_native(model.config) or "")
    with pytest.raises(EngineError, match="multiple of 16"):
        CpuBackend(model.config, model.weights)
    assert isinstance(open_backend(model.config, model.weights), ReferenceBackend)
    assert "multiple of 16" in caplog.text
    with pytest.raises(EngineError, match="choose from"):
        open_backend(model.config, model.weights, "gpu")
    assert why_not_native(tiny_config()) is None


def test_an_installation_without_kernels_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("understudy.model.native_backend.native_module", lambda: None)
    model = tiny_model()
    assert isinstance(open_backend(model.config, model.weights), ReferenceBackend)
    assert "install a C++20 compiler" in caplog.text
    with pytest.raises(EngineError, match="C\\+\\+20 compiler"):
        open_backend(model.config, model.weights, "cpu")
    assert why_not_native(tiny_config()) is not None
