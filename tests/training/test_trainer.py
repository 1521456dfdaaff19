import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from understudy.errors import DataError
from understudy.model.checkpoint import load_model
from understudy.tokenizer import Tokenizer
from understudy.training.curve import draw_curve, read_figures
from understudy.training.export import export_run
from understudy.training.recipe import OptimizerRecipe, Recipe
from understudy.training.trainer import Trainer


def make(recipe: Recipe, corpora: Path, output: Path, tokenizer: Tokenizer) -> Trainer:
    output.mkdir(exist_ok=True)
    return Trainer(recipe, data=corpora, output=output, tokenizer=tokenizer, report=lambda text: None)


@pytest.mark.parametrize("checkpoint", [8, 0])
def test_a_stopped_run_goes_on_exactly(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer, checkpoint: int
) -> None:
    whole = make(recipe, corpora, tmp_path / "whole", tokenizer)
    expected = [p.loss for p in whole.run()]
    stopped = make(recipe, corpora, tmp_path / "stopped", tokenizer)
    for progress in stopped.run():
        if progress.step == 11:  # killed after the checkpoint at step 8 and the row of step 10
            break
    if not checkpoint:  # as if it had been killed before the first one
        (tmp_path / "stopped" / "checkpoint.pt").unlink()
    resumed = make(recipe, corpora, tmp_path / "stopped", tokenizer)
    assert (resumed.resume(), resumed.step) == (checkpoint > 0, checkpoint)
    assert [p.loss for p in resumed.run()] == pytest.approx(expected[checkpoint:], abs=1e-5)
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    )
    for name in ("losses.csv", "evaluations.csv"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()


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


def prose_only(recipe: Recipe, **changes: object) -> Recipe:
    """Six float32 steps of prose, without evaluations."""
    stage = recipe.stages[0]
    fields = {"dtype": "float32", "sources": recipe.sources[:1], "stages": (stage,), "probes_per_kind": 0, **changes}
    return dataclasses.replace(recipe, **fields)


def test_the_golden_losses(recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    losses = [p.loss for p in make(prose_only(recipe), corpora, tmp_path / "run", tokenizer).run()]
    # Where bfloat16 is fast Muon orthogonalises in it, hence the tolerance.
    assert losses == pytest.approx([6.23111, 6.17539, 6.05989, 5.94088, 5.81022, 5.69389], abs=1e-3)


def test_checkpointed_activations_change_nothing(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    losses = []
    for saving in (False, True):
        plan = prose_only(recipe, activation_checkpointing=saving)
        losses.append([p.loss for p in make(plan, corpora, tmp_path / f"{saving}", tokenizer).run()])
    assert losses[0] == losses[1]


def test_adamw_learns_too_and_resumes(recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    optimizer = OptimizerRecipe(kind="adamw", schedule="cosine", adam_weight_decay=0.1, warmup_steps=2)
    plan = prose_only(recipe, optimizer=optimizer)
    losses = [p.loss for p in make(plan, corpora, tmp_path / "run", tokenizer).run() if p.step <= 6]
    assert losses[-1] < losses[0] - 0.2
    for progress in make(plan, corpora, tmp_path / "killed", tokenizer).run():
        if progress.step == 5:
            break
    again = make(plan, corpora, tmp_path / "killed", tokenizer)
    assert again.resume() and again.step == 4 and [p.loss for p in again.run()] == losses[4:]


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    plan = prose_only(recipe)
    trainer = make(plan, corpora, tmp_path / "run", tokenizer)
    steps = trainer.run()
    assert [next(steps).step for _ in range(5)][-1] == 5  # the checkpoint is of step 4
    torch.nn.init.constant_(trainer.model.norm.weight, float("nan"))
    with pytest.raises(DataError, match=r"not finite at step 5: .*kept as it was saved before.*same command again"):
        next(steps)
    again = make(plan, corpora, tmp_path / "run", tokenizer)
    assert again.resume() and again.step == 4
    assert [p.step for p in again.run()] == [5, 6]
    fresh = make(plan, corpora, tmp_path / "fresh", tokenizer)
    torch.nn.init.constant_(fresh.model.norm.bias, float("inf"))
    with pytest.raises(DataError, match="nothing was saved yet"):
        next(fresh.run())


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on file sizes stands for a full disk")
def test_a_full_disk_keeps_the_checkpoint_before(
    recipe: Recipe, corpora: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    import resource

    trainer = make(prose_only(recipe), corpora, tmp_path / "run", tokenizer)
    trainer.save()
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    next(trainer.run())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(DataError, match=r"checkpoint\.pt cannot be written .* before it is kept\. Make room"):
            trainer.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.part"))
