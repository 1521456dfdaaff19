import torch

from understudy.model.checkpoint import LoadedModel
from understudy.pruning.tensors import LazyTensors, stored_tensors


def test_tensors_are_made_when_asked_for() -> None:
    made: list[str] = []

    def make(name: str) -> torch.Tensor:
        made.append(name)
        return torch.ones(2)

    tensors = LazyTensors({"a": lambda: make("a"), "b": lambda: make("b")})
    assert (len(tensors), list(tensors), made) == (2, ["a", "b"], [])
    assert torch.equal(tensors["b"], torch.ones(2))
    assert made == ["b"]
    assert set(dict(tensors)) == {"a", "b"}


def test_stored_tensors_are_the_files_own(files: LoadedModel) -> None:
    tensors = stored_tensors(files)
    assert list(tensors) == list(files.weights)
    assert torch.equal(tensors["lm_head.weight"], torch.from_numpy(files.weights["lm_head.weight"].dense()))
