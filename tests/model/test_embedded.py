"""The model inside the package."""

import json
import re

import pytest

from understudy.errors import ModelFileError
from understudy.model import embedded
from understudy.model.checkpoint import load_model


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(embedded, "files", lambda _: tmp_path)
    with pytest.raises(ModelFileError, match=r"harrow\.gguf"):
        embedded.embedded_model_path()
    (tmp_path / "harrow.gguf").touch()
    assert embedded.embedded_model_path() == tmp_path / "harrow.gguf"


def test_it_tells_how_it_was_made_and_not_where() -> None:
    recipe = load_model(embedded.embedded_model_path()).metadata["understudy.recipe"]
    assert json.loads(recipe)["name"] == "harrow"
    assert not re.search(r'"(/|[A-Z]:)', recipe)
