import torch
import torch.nn.functional as F

from understudy.training.cross_entropy import linear_cross_entropy
from understudy.training.model import NemotronLM, from_hf_tensors, to_hf_tensors
from understudy.training.muon import Muon, _orthogonalise
from understudy.training.recipe import Recipe


def test_linear_cross_entropy_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1100, 24, requires_grad=True)
    table = torch.randn(77, 24, requires_grad=True)
    targets, weights = torch.randint(0, 77, (1100,)), torch.rand(1100)
    plain = (F.cross_entropy(hidden @ table.T, targets, reduction="none") * weights).sum()
    expected = torch.autograd.grad(plain * 3, (hidden, table))
    loss = linear_cross_entropy(hidden, table, targets, weights)
    got = torch.autograd.grad(loss * 3, (hidden, table))
    assert torch.allclose(loss, plain, rtol=1e-5)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(got, expected, strict=True))
    for frozen, learning, wanted in ((table, hidden, expected[0]), (hidden, table, expected[1])):
        frozen.requires_grad_(False)
        (alone,) = torch.autograd.grad(linear_cross_entropy(hidden, table, targets, weights) * 3, (learning,))
        assert torch.allclose(alone, wanted, rtol=1e-4, atol=1e-4)
        frozen.requires_grad_(True)


def test_hugging_face_names_go_there_and_back(recipe: Recipe) -> None:
    torch.manual_seed(1)
    model, other = NemotronLM(recipe.model), NemotronLM(recipe.model)
    tensors = to_hf_tensors(model)
    assert sum(t.numel() for t in tensors.values()) == recipe.model.num_parameters
    from_hf_tensors(other, tensors)
    ids = torch.randint(0, 512, (2, 9))
    assert torch.equal(model(ids), other(ids))


def test_a_later_token_never_changes_an_earlier_one(recipe: Recipe) -> None:
    torch.manual_seed(2)
    model = NemotronLM(recipe.model)
    ids = torch.randint(0, 512, (1, 12))
    changed = ids.clone()
    changed[0, 8:] = 5
    assert torch.allclose(model(ids)[0, :8], model(changed)[0, :8], atol=1e-5)


def test_muon_steps_are_nearly_orthogonal() -> None:
    torch.manual_seed(3)
    out = _orthogonalise(torch.randn(2, 40, 24))
    singular = torch.linalg.svdvals(out)
    assert singular.min() > 0.4 and singular.max() < 1.4


def test_muon_treats_packed_rows_apart() -> None:
    torch.manual_seed(4)
    packed = torch.nn.Parameter(torch.zeros(24, 16))
    packed.row_blocks = [16, 8]  # type: ignore[attr-defined]
    gradient = torch.randn(24, 16)
    packed.grad = gradient.clone()
    parts = [torch.nn.Parameter(torch.zeros(n, 16)) for n in (16, 8)]
    for part, grad in zip(parts, gradient.split((16, 8)), strict=True):
        part.grad = grad.clone()
    Muon([packed], lr=0.1).step()
    Muon(parts, lr=0.1).step()
    assert torch.allclose(packed, torch.cat(list(parts)), atol=1e-2)
