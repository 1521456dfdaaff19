from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks import lookup
from understudy.evaluation.tasks.lookup import Lookups


def test_a_random_model_looks_nothing_up(subject: Subject) -> None:
    subject.limit = 1
    outcome = Lookups().run(subject, lambda done, total: None)
    assert {figure.value for figure in outcome.figures} <= {0.0}
    assert all(figure.count == 1 for figure in outcome.figures)
    assert outcome.settings["per_kind"] == 1


def test_what_it_cannot_hold_in_float32(subject: Subject, monkeypatch: object) -> None:
    assert Lookups().lacks(subject) is None
    monkeypatch.setattr(lookup, "_MAX_PARAMETERS", 1000)  # type: ignore[attr-defined]
    assert "more than 1,000 parameters" in (Lookups().lacks(subject) or "")
