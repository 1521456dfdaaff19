"""The model inside the package."""

import pytest

from understudy.errors import ModelFileError
from understudy.model import embedded


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(embedded, "files", lambda _: tmp_path)
    with pytest.raises(ModelFileError, match=r"harrow\.gguf"):
        embedded.embedded_model_path()
    (tmp_path / "harrow.gguf").touch()
    assert embedded.embedded_model_path() == tmp_path / "harrow.gguf"
