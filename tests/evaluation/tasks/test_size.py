from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks.size import Size


def test_bytes_and_bits(subject: Subject) -> None:
    values = {f.name: f.value for f in Size().run(subject, lambda done, total: None).figures}
    assert values["size.file"] == subject.path.stat().st_size
    assert values["size.parameters"] == subject.files.config.num_parameters
    assert 16 <= values["size.bits_per_weight"] < 16.5  # f16, norms in f32
    assert values["size.cache"] == subject.backend.memory().cache_bytes_per_token * 4096
