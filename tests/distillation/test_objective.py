import dataclasses
from collections.abc import Callable

import pytest
import torch

from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import LocalTeacher, vocabulary_hash
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.testing import byte_tokenizer, tiny_config
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer

Make = Callable[..., Trainer]
PLAIN = DistillationRecipe()
RICH = DistillationRecipe(temperature=1.5, top_k=20, cross_entropy_weight=0.1, cosine_weight=0.5)


def student(config: NemotronConfig, seed: int = 0) -> NemotronLM:
    torch.manual_seed(seed)
    return NemotronLM(config)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(12, 268, (3, 17), generator=generator)
    return ids, (torch.rand(3, 16, generator=generator) - 0.3).clamp(min=0)


def test_a_copy_of_the_teacher_has_nothing_to_learn(teacher: LocalTeacher, teacher_files: LoadedModel) -> None:
    copy = student(teacher_files.config)
    from_hf_tensors(copy, {n: torch.from_numpy(w.dense()) for n, w in teacher_files.weights.items()})
    for dtype in ("float32", "bfloat16"):
        objective = Distillation(LocalTeacher(teacher_files, dtype=dtype), PLAIN, student=copy.config)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = objective.loss_sum(copy, *batch())
        copy.zero_grad()
        loss.backward()
        assert loss.item() == 0.0
        assert all(p.grad is not None and not p.grad.any() for p in copy.parameters())


def test_the_loss_is_the_divergence_of_chosen_positions(
    teacher: LocalTeacher, teacher_files: LoadedModel, recipe: Recipe
) -> None:
    model, (ids, weights) = student(recipe.model), batch()
    grown = student(teacher_files.config)
    from_hf_tensors(grown, {n: torch.from_numpy(w.dense()) for n, w in teacher_files.weights.items()})
    with torch.no_grad():
        logp, logq = grown(ids[:, :-1]).log_softmax(-1), model(ids[:, :-1]).log_softmax(-1)
        expected = ((logp.exp() * (logp - logq)).sum(-1) * weights).sum()
        loss = Distillation(teacher, PLAIN, student=model.config).loss_sum(model, ids, weights)
    assert 0 < int((weights > 0).sum()) < weights.numel()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_sixty_steps_bring_the_student_nearer(recipe: Recipe, pupil: Make) -> None:
    longer = dataclasses.replace(
        recipe, checkpoint_every=100, stages=(dataclasses.replace(recipe.stages[0], steps=60),)
    )
    losses = [p.loss for p in pupil(longer, PLAIN).run()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("plan", [PLAIN, RICH], ids=["plain", "rich"])
def test_a_killed_distillation_goes_on_bit_for_bit(recipe: Recipe, pupil: Make, plan: DistillationRecipe) -> None:
    whole = pupil(recipe, plan, output="whole")
    expected = [p.loss for p in whole.run()]
    for progress in pupil(recipe, plan, output="killed").run():
        if progress.step == 4:
            break
    resumed = pupil(recipe, plan, output="killed")
    assert resumed.resume() and resumed.step == 3
    assert [p.loss for p in resumed.run()] == expected[3:]
    assert all(torch.equal(a, b) for a, b in zip(whole._trained(), resumed._trained(), strict=True))


def test_the_projection_is_trained_and_needed(recipe: Recipe, pupil: Make) -> None:
    trainer = pupil(recipe, RICH)
    before = trainer.objective.companion.weight.detach().clone()
    distances = [p.loss for p in trainer.run()]
    assert not torch.equal(before, trainer.objective.companion.weight) and distances[-1] < distances[0]
    with pytest.raises(DataError, match="another recipe"):
        pupil(recipe, dataclasses.replace(RICH, cosine_weight=0.0)).resume()


def test_checkpointed_activations_change_nothing(recipe: Recipe, pupil: Make) -> None:
    saving = dataclasses.replace(recipe, activation_checkpointing=True)
    losses = [[p.loss for p in pupil(r, RICH, output=n).run()] for r, n in ((recipe, "a"), (saving, "b"))]
    assert losses[0] == losses[1]


def test_models_that_do_not_fit_are_refused(teacher: LocalTeacher) -> None:
    with pytest.raises(DataError, match=r"teacher \(268 tokens\) and the student \(300\)"):
        Distillation(teacher, PLAIN, student=tiny_config(vocab_size=300))
    own = vocabulary_hash(byte_tokenizer().definition)
    Distillation(teacher, PLAIN, student=tiny_config(), vocabulary=own)
    with pytest.raises(DataError, match="different vocabularies"):
        Distillation(teacher, PLAIN, student=tiny_config(), vocabulary=vocabulary_hash({"model": {"vocab": {}}}))
    with pytest.raises(DataError, match="below the teacher's vocabulary of 268"):
        Distillation(teacher, DistillationRecipe(top_k=268), student=tiny_config())
    with pytest.raises(DataError, match="a model has 2 layers"):
        Distillation(teacher, DistillationRecipe(cosine_weight=1.0), student=tiny_config())


def test_packed_rows_are_their_documents(teacher: LocalTeacher, recipe: Recipe) -> None:
    """Two documents in a row lose what they lose in rows of their own."""
    objective = Distillation(teacher, dataclasses.replace(RICH, cross_entropy_weight=0.0), student=recipe.model)
    model, (ids, _) = student(recipe.model), batch()
    packed = torch.cat([ids[:1, :17], ids[1:2, :9]], 1)  # the last id of each is only predicted
    documents = torch.tensor([[0] * 17 + [1] * 8])
    weights = torch.ones(1, 25)
    weights[0, 16] = 0.0
    with torch.no_grad():
        apart = [
            objective.loss_sum(model, row, torch.ones(1, row.shape[1] - 1)) for row in (ids[:1, :17], ids[1:2, :9])
        ]
        together = objective.loss_sum(model, packed, weights, documents)
    torch.testing.assert_close(together, sum(apart), rtol=1e-5, atol=1e-4)
