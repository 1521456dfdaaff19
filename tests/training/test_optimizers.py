import pytest
import torch

from understudy.testing import tiny_config
from understudy.training.model import NemotronLM
from understudy.training.optimizers import learning_rate_scale, make_optimizers
from understudy.training.recipe import OptimizerRecipe


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = OptimizerRecipe(warmup_steps=10, decay_share=0.5, final_lr_share=0.1)
    scales = [learning_rate_scale(recipe, step, 100) for step in range(100)]
    assert scales[0] == pytest.approx(0.1) and scales[10] == scales[49] == 1.0
    assert scales[-1] == pytest.approx(0.1 + 0.9 * 0.02) and scales == sorted(scales[:10]) + sorted(
        scales[10:], reverse=True
    )


def test_cosine_falls_from_the_warm_up_to_the_end() -> None:
    recipe = OptimizerRecipe(schedule="cosine", warmup_steps=10, final_lr_share=0.1)
    scales = [learning_rate_scale(recipe, step, 110) for step in range(110)]
    assert scales[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert scales[10] == 1.0 and scales[60] == pytest.approx(0.55) and scales[-1] == pytest.approx(0.1, abs=1e-3)
    assert scales[10:] == sorted(scales[10:], reverse=True)


def test_each_weight_has_one_optimizer_and_its_rate() -> None:
    config = tiny_config()
    for kind, own in (("muon", [8, 12]), ("adamw", [20])):
        model = NemotronLM(config)
        frozen = model.embed_tokens.weight.requires_grad_(False)
        recipe = OptimizerRecipe(kind=kind, muon_lr=0.5, adam_lr=0.25, adam_weight_decay=0.1)
        extra = torch.nn.Parameter(torch.zeros(3))
        optimizers = make_optimizers(model, recipe, others=[extra])
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in [*model.parameters(), extra] if p is not frozen)
        assert [sum(len(g["params"]) for g in o.param_groups) for o in optimizers] == own
        rates = {g["base_lr"] for g in groups if id(model.layers[0].up_proj.weight) in map(id, g["params"])}
        assert rates == {0.5 if kind == "muon" else 0.25}
        assert all(g["weight_decay"] == 0 for g in groups if id(model.norm.weight) in map(id, g["params"]))
