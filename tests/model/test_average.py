import dataclasses
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import ModelFileError
from understudy.model.average import AveragedTensors
from understudy.model.checkpoint import LoadedModel
from understudy.testing import tiny_model


@pytest.fixture(scope="module")
def pair() -> tuple[LoadedModel, LoadedModel]:
    return tiny_model(), tiny_model(seed=1)


def test_each_tensor_is_the_mean(pair: tuple[LoadedModel, LoadedModel]) -> None:
    found = AveragedTensors(pair, [0.25, 0.75])
    assert list(found) == list(pair[0].weights) and len(found) == len(pair[0].weights)
    for name in found:
        expected = 0.25 * pair[0].weights[name].dense() + 0.75 * pair[1].weights[name].dense()
        np.testing.assert_allclose(found[name], expected, atol=1e-6)


def test_equal_shares_are_usual(pair: tuple[LoadedModel, LoadedModel]) -> None:
    name = "model.embed_tokens.weight"
    np.testing.assert_allclose(AveragedTensors(pair)[name], AveragedTensors(pair, [0.5, 0.5])[name])


@pytest.mark.parametrize(("shares", "told"), [([0.5], "2 shares"), ([0.5, 0.6], "sum to 1"), ([1.5, -0.5], "above 0")])
def test_shares_are_checked(pair: tuple[LoadedModel, LoadedModel], shares: list[float], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        AveragedTensors(pair, shares)


def test_strangers_are_refused(pair: tuple[LoadedModel, LoadedModel]) -> None:
    with pytest.raises(ModelFileError, match="two models"):
        AveragedTensors(pair[:1])
    with pytest.raises(ModelFileError, match="other shapes"):
        AveragedTensors([pair[0], tiny_model(hidden_size=32)])
    other = dataclasses.replace(pair[1], path=Path("b"), config=dataclasses.replace(pair[1].config, rope_theta=5.0))
    with pytest.raises(ModelFileError, match="b has other shapes"):
        AveragedTensors([pair[0], other])
