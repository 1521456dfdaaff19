"""A small random model whose activations differ from unit to unit, and calibration batches for it."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.pruning.importance import Importance, measure_importance
from understudy.testing import tiny_model
from understudy.training.model import NemotronLM, from_hf_tensors

Logits = Callable[[Mapping[str, Tensor], NemotronConfig], Tensor]


@pytest.fixture(scope="session")
def files() -> LoadedModel:
    return tiny_model(seed=6, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2, head_dim=8)


@pytest.fixture(scope="session")
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 268, (rows, 12), generator=generator) for rows in (3, 2)]


@pytest.fixture(scope="session")
def importance(files: LoadedModel, batches: list[Tensor]) -> Importance:
    return measure_importance(files, batches)


@pytest.fixture(scope="session")
def logits(batches: list[Tensor]) -> Logits:
    """Logits of a model given as tensors and shape, on the calibration batches."""

    def run(tensors: Mapping[str, Tensor], config: NemotronConfig) -> Tensor:
        model = NemotronLM(config)
        from_hf_tensors(model, tensors)
        with torch.no_grad():
            return torch.cat([model(ids) for ids in batches])

    return run
