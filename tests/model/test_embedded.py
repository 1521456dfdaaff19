"""The model inside the package."""

import json
import re

import numpy as np
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
    with pytest.raises(ModelFileError, match=r"harrow-f16\.gguf"):
        embedded.embedded_model_path(in_16_bits=True)


def test_the_file_to_talk_to_is_the_one_to_train_on_in_8_bits() -> None:
    small, whole = (load_model(embedded.embedded_model_path(in_16_bits=b)) for b in (False, True))
    assert small.config == whole.config
    assert small.tokenizer.definition == whole.tokenizer.definition
    assert small.file_bytes + whole.file_bytes < 40e6
    for name, weight in whole.weights.items():
        np.testing.assert_allclose(small.weights[name].dense(), weight.dense(), atol=np.abs(weight.dense()).max() / 50)


def test_it_tells_how_it_was_made_and_not_where() -> None:
    recipe = load_model(embedded.embedded_model_path()).metadata["understudy.recipe"]
    assert json.loads(recipe)["name"] == "harrow"
    assert not re.search(r'"(/|[A-Z]:)', recipe)
