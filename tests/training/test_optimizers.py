import pytest

from understudy.training.optimizers import learning_rate_scale
from understudy.training.recipe import OptimizerRecipe


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = OptimizerRecipe(warmup_steps=10, decay_share=0.5, final_lr_share=0.1)
    scales = [learning_rate_scale(recipe, step, 100) for step in range(100)]
    assert scales[0] == pytest.approx(0.1) and scales[10] == scales[49] == 1.0
    assert scales[-1] == pytest.approx(0.1 + 0.9 * 0.02) and scales == sorted(scales[:10]) + sorted(
        scales[10:], reverse=True
    )
