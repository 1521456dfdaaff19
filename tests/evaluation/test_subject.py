from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.subject import Subject


def test_wrong_folders_and_limits(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data folder"):
        Subject(model_file, output=tmp_path, data=tmp_path / "none")
    with pytest.raises(DataError, match="at least 1, got 0"):
        Subject(model_file, output=tmp_path, limit=0)
    with pytest.raises(DataError, match=r"x\.jsonl is not in the data folder"):
        Subject(model_file, output=tmp_path, data=tmp_path).require("x.jsonl")


def test_choice_depends_on_seed_and_limit_only(model_file: Path, tmp_path: Path) -> None:
    free = Subject(model_file, output=tmp_path)
    assert free.choose(4) == [0, 1, 2, 3]
    assert len(free.choose(100, 7)) == 7
    first, again, other = (Subject(model_file, output=tmp_path, seed=s, limit=5).choose(100, 50) for s in (1, 1, 2))
    assert first == again == sorted(first)
    assert first != other
    assert len(set(first)) == 5


def test_packed_files_stand_in(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.jsonl.zst").write_bytes(b"")
    subject = Subject(model_file, output=tmp_path, data=tmp_path)
    assert subject.data_file("a.jsonl", "b.jsonl") == tmp_path / "b.jsonl.zst"
    assert Subject(model_file, output=tmp_path).data_file("b.jsonl") is None


def test_the_engine_ends_with_its_block(subject: Subject) -> None:
    with subject.talking() as model:
        assert model.backend is subject.backend
        engine = model.engine
    assert not engine._thread.is_alive()
