import pytest
import torch
from torch import Tensor

from understudy.distillation.linear_kl import FullGoal, TopGoal, linear_kl, top_goal
from understudy.errors import DataError

N, D, WIDE, V = 37, 12, 20, 83


@pytest.fixture(autouse=True)
def _small_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small vocabulary is unpacked in several pieces, the last one uneven."""
    monkeypatch.setattr("understudy.distillation.linear_kl._COLUMNS", 32)


def tensors(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "hidden": normal(N, D).requires_grad_(),
        "table": normal(V, D).requires_grad_(),
        "states": normal(N, WIDE),
        "goal_table": normal(V, WIDE) * 0.5,
        "weights": torch.rand(N, generator=generator, dtype=torch.float64).to(dtype),
        "targets": torch.randint(0, V, (N,), generator=generator),
    }


def plain_loss(t: dict[str, Tensor], *, temperature: float, weight: float, top_k: int | None) -> Tensor:
    """The definition, with all logits."""
    logits = t["hidden"] @ t["table"].T
    student = (logits / temperature).softmax(-1)
    teacher = (t["states"] @ t["goal_table"].T / temperature).softmax(-1)
    if top_k:
        probs, ids = teacher.topk(top_k)
        teacher = torch.cat([probs, 1 - probs.sum(-1, keepdim=True)], -1)
        kept = student.gather(1, ids)
        student = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)
    kl = (teacher * (teacher.log() - student.log())).sum(-1)
    entropy = -logits.log_softmax(-1).gather(1, t["targets"][:, None])[:, 0]
    losses = (1 - weight) * temperature**2 * kl + weight * entropy
    return (losses * t["weights"]).sum()


def goal(t: dict[str, Tensor], *, temperature: float, top_k: int | None) -> FullGoal | TopGoal:
    if top_k:
        return top_goal(t["states"], t["goal_table"], top_k=top_k, temperature=temperature, chunk=16)
    return FullGoal(states=t["states"], table=t["goal_table"])


@pytest.mark.parametrize("top_k", [None, 1, 7, V - 1])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.3), (0.7, 0.6), (1.0, 1.0)])
def test_loss_and_gradients_are_the_definitions(temperature: float, weight: float, top_k: int | None) -> None:
    t = tensors()
    expected = plain_loss(t, temperature=temperature, weight=weight, top_k=top_k)
    wanted = torch.autograd.grad(expected * 3, (t["hidden"], t["table"]))
    loss = linear_kl(
        t["hidden"],
        t["table"],
        goal(t, temperature=temperature, top_k=top_k),
        t["weights"],
        targets=t["targets"],
        temperature=temperature,
        cross_entropy_weight=weight,
        chunk=16,
    )
    got = torch.autograd.grad(loss * 3, (t["hidden"], t["table"]))
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("top_k", [None, 7])
def test_bfloat16_stays_near_float64(top_k: int | None) -> None:
    exact, rough = tensors(), tensors(torch.float32)
    expected = plain_loss(exact, temperature=1.0, weight=0.1, top_k=top_k)
    wanted = torch.autograd.grad(expected, (exact["hidden"], exact["table"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_kl(
            rough["hidden"],
            rough["table"],
            goal(rough, temperature=1.0, top_k=top_k),
            rough["weights"],
            targets=rough["targets"],
            cross_entropy_weight=0.1,
        )
    got = torch.autograd.grad(loss, (rough["hidden"], rough["table"]))
    assert loss.dtype == torch.float32 and all(g.dtype == torch.float32 for g in got)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.02)
    for a, b in zip(got, wanted, strict=True):
        assert float((a - b).norm() / b.norm()) < 0.03


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    t = tensors(torch.float32)
    same = FullGoal(states=t["hidden"].detach(), table=t["table"].detach())
    loss = linear_kl(t["hidden"], t["table"], same, t["weights"])
    gradients = torch.autograd.grad(loss, (t["hidden"], t["table"]))
    assert float(loss.detach()) == 0.0 and not any(g.any() for g in gradients)
    cut = top_goal(t["hidden"].detach(), t["table"].detach(), top_k=7)
    loss = linear_kl(t["hidden"], t["table"], cut, t["weights"])
    gradients = torch.autograd.grad(loss, (t["hidden"], t["table"]))
    assert float(loss.detach()) == 0.0 and all(float(g.abs().max()) < 1e-5 for g in gradients)


def test_a_cut_teacher_never_exceeds_the_whole_one() -> None:
    t = tensors()
    losses = [float(plain_loss(t, temperature=1.0, weight=0.0, top_k=k).detach()) for k in (1, 5, 20, None)]
    got = [
        float(linear_kl(t["hidden"], t["table"], goal(t, temperature=1.0, top_k=k), t["weights"]).detach())
        for k in (1, 5, 20, None)
    ]
    assert got == pytest.approx(losses) and got == sorted(got)


def test_no_position_no_loss() -> None:
    t = tensors(torch.float32)
    for k in (None, 3):
        target = goal({**t, "states": t["states"][:0]}, temperature=1.0, top_k=k)
        loss = linear_kl(t["hidden"][:0], t["table"], target, t["weights"][:0])
        gradients = torch.autograd.grad(loss, (t["hidden"], t["table"]))
        assert float(loss.detach()) == 0.0 and not any(g.any() for g in gradients)


def test_a_frozen_table_gets_no_gradient() -> None:
    t = tensors()
    loss = linear_kl(t["hidden"], t["table"].detach(), goal(t, temperature=1.0, top_k=None), t["weights"])
    loss.backward()
    assert t["hidden"].grad is not None and t["table"].grad is None


def test_another_vocabulary_is_refused() -> None:
    t = tensors()
    other = FullGoal(states=t["states"], table=t["goal_table"][:80])
    with pytest.raises(DataError, match="teacher knows 80 tokens, the student 83"):
        linear_kl(t["hidden"], t["table"], other, t["weights"])
    for k in (0, V):
        with pytest.raises(DataError, match=f"top_k must be from 1 to {V - 1}"):
            top_goal(t["states"], t["goal_table"], top_k=k)
