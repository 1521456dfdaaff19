import json
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.errors import DataError
from understudy.model.checkpoint import load_model
from understudy.model.transformer import ReferenceBackend
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.tokenizer import Tokenizer
from understudy.training.export import export_run
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer


def test_what_was_trained_is_what_runs(recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.definition), encoding="utf-8")
    trainer = Trainer(recipe, data=corpora, output=tmp_path, tokenizer=tokenizer, report=lambda text: None)
    trainer.save()
    folder, gguf = export_run(recipe, tmp_path)
    ids = tokenizer.encode("Good evening, fox.")
    with torch.no_grad():
        expected = trainer.model(torch.tensor([ids]))[0].numpy()
    for path, tolerance in ((folder, 1e-4), (gguf, 2e-2)):
        loaded = load_model(path)
        assert loaded.config == recipe.model
        assert loaded.chat_template == NEMOTRON_CHAT_TEMPLATE
        assert loaded.tokenizer.encode("Good evening, fox.") == ids
        backend = ReferenceBackend(loaded.config, loaded.weights)
        got = backend.forward([_step(backend.new_cache(), ids)])[0]
        assert np.abs(got - expected).max() < tolerance


def _step(cache: object, ids: list[int]) -> object:
    from understudy.engine.backend import Step

    return Step(cache, ids, num_logits=len(ids))  # type: ignore[arg-type]


def test_no_checkpoint_no_export(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train first"):
        export_run(recipe, tmp_path)
