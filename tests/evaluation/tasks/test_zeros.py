import pytest

from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks.zeros import ZeroNeurons
from understudy.kernels.native import native_module


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_shares_of_every_layer(model_file: object, subject: Subject) -> None:
    subject.limit = 2
    outcome = ZeroNeurons().run(subject, lambda done, total: None)
    mean, *layers = outcome.figures
    assert [figure.name for figure in layers] == ["zeros.layer_00", "zeros.layer_01"]
    assert all(figure.is_detail and 0.3 < figure.value < 0.7 for figure in layers)  # random weights: about half
    assert mean.value == pytest.approx(sum(figure.value for figure in layers) / 2)
    assert outcome.settings == {"characters": 2}
