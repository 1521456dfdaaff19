"""What a slow embedder costs: the time that it is given, and no more."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.errors import LoreError
from understudy.retrieval import Document, Lore, Passage, build_lore
from understudy.retrieval.patience import PatientEmbedder


class Slow:
    """An embedder that answers once its gate is open."""

    name = "slow"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.num_asked = 0
        self.failure: LoreError | None = None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_asked += 1
        assert self.gate.wait(20)
        if self.failure:
            raise self.failure
        return np.array([[1.0, len(text)] for text in texts], dtype=np.float32)


@pytest.fixture
def slow() -> Iterator[Slow]:
    embedder = Slow()
    yield embedder
    embedder.gate.set()


def test_it_is_given_up_and_goes_on(slow: Slow) -> None:
    patient = PatientEmbedder(slow, most_at_once=2)
    assert patient.name == "slow"
    for _ in range(2):
        with pytest.raises(LoreError, match=r"The embedder slow did not answer within 0\.01 s"):
            patient.embed(["a"], wait_s=0.01)
    with pytest.raises(LoreError, match="still busy with earlier lines"):
        patient.embed(["a"], wait_s=0.01)
    assert slow.num_asked == 2
    slow.gate.set()
    assert np.allclose(np.linalg.norm(patient.embed(["a", "bc"], wait_s=20), axis=1), 1)
    assert patient.embed(["a"]).shape == (1, 2)  # in this thread
    slow.failure = LoreError("It burnt.")
    with pytest.raises(LoreError, match="It burnt"):
        patient.embed(["a"], wait_s=20)


def test_lore_is_found_by_words_alone_and_says_so(slow: Slow, tmp_path: Path) -> None:
    slow.gate.set()
    passage = Passage(id="well", title="The well", text="The well is deep.")
    build_lore(tmp_path / "l.db", [Document(name="a.md", digest="1", read=lambda: (passage,))], embedder=slow)
    slow.gate.clear()
    with Lore.open(tmp_path / "l.db", embedder=slow) as lore:
        before_s = time.monotonic()
        looked = lore.look_up("How deep is the well?", character="ada", wait_s=0.02)
        assert time.monotonic() - before_s < 10
        assert [one.id for one in looked.found] == ["well"]
        assert looked.note == "The embedder slow did not answer within 0.02 s. Lore was found by words alone."
        slow.gate.set()  # the next line has time enough, and is not punished for the last one
        assert lore.look_up("How deep is the well?", character="ada", wait_s=20).note == ""
        slow.failure = LoreError("It burnt.")
        assert lore.look_up("The well?", character="ada", wait_s=20).note.startswith("It burnt.")
        num_asked = slow.num_asked
        assert "failed a while ago" in lore.look_up("The well?", character="ada", wait_s=20).note
        assert slow.num_asked == num_asked
