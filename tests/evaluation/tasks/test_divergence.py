from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks.divergence import BookDivergence, LineDivergence
from understudy.model.gguf_writer import write_gguf
from understudy.testing import random_tensors, tiny_config
from understudy.tokenizer.byte_level import byte_level_definition


@pytest.mark.parametrize("task", [BookDivergence(), LineDivergence()])
def test_a_model_does_not_diverge_from_itself(
    task: BookDivergence, model_file: Path, corpora: Path, tmp_path: Path
) -> None:
    subject = Subject(model_file, output=tmp_path, parent=model_file, data=corpora, limit=2)
    assert task.lacks(subject) is None
    kl, top1 = task.run(subject, lambda done, total: None).figures
    assert (kl.value, top1.value) == (0.0, 1.0)
    assert (kl.name, top1.name) == (f"{task.name}.kl", f"{task.name}.top1")


def test_another_model_diverges(model_file: Path, parent_file: Path, corpora: Path, tmp_path: Path) -> None:
    subject = Subject(model_file, output=tmp_path, parent=parent_file, data=corpora, limit=2)
    kl, top1 = LineDivergence().run(subject, lambda done, total: None).figures
    assert kl.value > 0.1
    assert top1.value < 0.5
    assert kl.count == top1.count


def test_other_vocabularies_are_not_compared(model_file: Path, corpora: Path, tmp_path: Path) -> None:
    specials = ("<pad>", "<unk>", "<s>", "</s>")
    larger = tmp_path / "larger.gguf"
    config = tiny_config(vocab_size=300)
    write_gguf(
        larger, config, random_tensors(config), byte_level_definition(specials, vocab_size=300), None, file_type="f16"
    )
    subject = Subject(model_file, output=tmp_path, parent=larger, data=corpora)
    assert "vocabulary of 300 tokens, the model one of 268" in (LineDivergence().lacks(subject) or "")
    other = tmp_path / "other.gguf"
    config = tiny_config()
    write_gguf(
        other, config, random_tensors(config), byte_level_definition(specials, vocab_size=268), None, file_type="f16"
    )
    subject = Subject(model_file, output=tmp_path, parent=other, data=corpora)
    with pytest.raises(DataError, match="cuts texts into other tokens"):
        LineDivergence().run(subject, lambda done, total: None)
