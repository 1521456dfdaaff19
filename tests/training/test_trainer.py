import dataclasses
import json
from pathlib import Path

import pytest
import torch

from understudy.errors import DataError
from understudy.model.checkpoint import load_model
from understudy.tokenizer import Tokenizer
from understudy.training.curve import draw_curve, read_figures
from understudy.training.export import export_run
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer


def make(recipe: Recipe, corpora: Path, output: Path, tokenizer: Tokenizer) -> Trainer:
    output.mkdir(exist_ok=True)
    return Trainer(recipe, data=corpora, output=output, tokenizer=tokenizer, report=lambda text: None)


def test_a_stopped_run_goes_on_exactly(recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = make(recipe, corpora, tmp_path / "whole", tokenizer)
    expected = [p.loss for p in whole.run()]
    stopped = make(recipe, corpora, tmp_path / "stopped", tokenizer)
    for progress in stopped.run():
        if progress.step == 7:  # killed three steps after the checkpoint at step 4
            break
    resumed = make(recipe, corpora, tmp_path / "stopped", tokenizer)
    assert resumed.resume() and resumed.step == 4
    assert [p.loss for p in resumed.run()] == pytest.approx(expected[4:], abs=1e-5)
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    )


def test_training_lowers_the_loss_and_draws_its_curve(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    trainer = make(recipe, corpora, tmp_path / "run", tokenizer)
    losses = [p.losses["prose"] for p in trainer.run()]
    assert losses[-1] < losses[0] - 0.5
    figures = read_figures(tmp_path / "run" / "evaluations.csv")
    assert figures["bits_per_byte"][0] == [8, 12]
    assert 0.0 < figures["bits_per_byte"][1][-1] < 8.0
    draw_curve(tmp_path / "run", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_of_another_recipe_is_refused(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    trainer = make(recipe, corpora, tmp_path / "run", tokenizer)
    trainer.save()
    trainer.model.layers = trainer.model.layers[:1]
    with pytest.raises(DataError, match="another recipe"):
        trainer.resume()


def test_a_run_starts_from_another_runs_export(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    first = make(recipe, corpora, tmp_path / "first", tokenizer)
    losses = [p.losses["prose"] for p in first.run()]
    (tmp_path / "first" / "tokenizer.json").write_text(json.dumps(tokenizer.definition))
    folder, gguf = export_run(recipe, tmp_path / "first")
    second = make(recipe, corpora, tmp_path / "second", tokenizer)
    second.start_from(load_model(folder))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    second.start_from(load_model(gguf))  # F16
    assert next(second.run()).losses["prose"] < losses[0] - 0.5
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_hidden_layers=1))
    with pytest.raises(DataError, match="another shape or vocabulary"):
        make(other, corpora, tmp_path / "third", tokenizer).start_from(load_model(gguf))
