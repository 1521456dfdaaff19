import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from understudy.errors import LoreError
from understudy.retrieval import ALL_KNOWING, Document, Lore, Passage, build_lore, read_folder


@pytest.fixture
def lore(lore_folder: Path, tmp_path: Path) -> Iterator[Lore]:
    build_lore(tmp_path / "l.db", read_folder(lore_folder).documents)
    with Lore.open(tmp_path / "l.db") as lore:
        yield lore


def ids(lore: Lore, line: str, **settings: object) -> list[str]:
    return [one.id for one in lore.search(line, **{"character": "hettie", **settings})]  # type: ignore[arg-type]


def test_what_answers_comes_first(lore: Lore) -> None:
    assert ids(lore, "How much is an eel pie?")[0] in ("prices.csv#1", "inn.txt#1")
    assert ids(lore, "how wide is the river")[0] == "river.md#1"
    assert ids(lore, "floods?") == ["river.md#2"]
    assert ids(lore, "Is there a captain?") == ["pym"]


def test_nothing_is_better_than_something_else(lore: Lore) -> None:
    assert ids(lore, "Who is the king of Spain?") == []
    assert ids(lore, "How are you?") == []
    assert ids(lore, "Do dragons pay taxes near the old wide tower of Zembla", limit=4) == []


def test_near_misses_on_request(lore: Lore) -> None:
    assert ids(lore, "Do dragons pay taxes near the wide tower of Zembla", min_score=0) == ["river.md#1"]


def test_only_what_one_may_know(lore: Lore) -> None:
    assert ids(lore, "what do the ferrymen owe") == []
    assert ids(lore, "what do the ferrymen owe", character="Reeve") == ["@reeve/debts.md#1"]
    assert ids(lore, "what do the ferrymen owe", character=ALL_KNOWING) == ["@reeve/debts.md#1"]


def test_a_line_that_leans_on_what_was_said(lore: Lore) -> None:
    assert ids(lore, "and who is there?") == []
    assert ids(lore, "and who is there?", history=["Tell me of the Dry Boot", "An inn, stranger."]) == ["inn.txt#1"]
    assert ids(lore, "how wide is the Sull", history=["The Dry Boot?"]) == ["river.md#1", "river.md#2", "inn.txt#1"]


def test_no_more_than_asked(lore: Lore) -> None:
    everything = "river inn pie price bell watch room Sull"
    assert len(ids(lore, everything, min_score=0, limit=3)) == 3
    assert ids(lore, everything, min_score=0, limit=0) == []
    assert len(ids(lore, everything, history=[everything], min_score=0, limit=1)) == 1


def test_found_tells_where_and_why(lore: Lore) -> None:
    (found,) = lore.search("floods", character="x")
    assert (found.title, found.document, found.line) == ("The river Sull > Floods", "river.md", 7)
    assert found.reason.startswith("words 1.")
    assert found.context == "Floods: Old Maud the bell rings."
    assert lore.search("inn of Hettie", character="x")[0].context.startswith("The Dry Boot is an inn.")


def test_stats(lore: Lore, tmp_path: Path) -> None:
    stats = lore.stats()
    assert (stats.num_documents, stats.num_passages, stats.num_public) == (5, 7, 6)
    assert (dict(stats.num_known_to), stats.embedder) == ({"reeve": 1}, "")
    assert stats.num_bytes == (tmp_path / "l.db").stat().st_size


def test_a_read_only_file_is_enough(lore_folder: Path, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    build_lore(shelf / "l.db", read_folder(lore_folder).documents)
    (shelf / "l.db").chmod(stat.S_IREAD)
    shelf.chmod(stat.S_IREAD | stat.S_IEXEC)
    try:
        with Lore.open(shelf / "l.db") as lore:
            assert ids(lore, "floods") == ["river.md#2"]
    finally:
        shelf.chmod(stat.S_IRWXU)
    assert [path.name for path in shelf.iterdir()] == ["l.db"]


def test_from_any_thread(lore: Lore) -> None:
    lines = ["floods", "how wide is the river", "captain"] * 10
    expected, found = [ids(lore, line) for line in lines], {}

    def ask(number: int) -> None:
        found[number] = [ids(lore, line) for line in lines]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == [expected] * 4


def test_closed(lore: Lore) -> None:
    lore.close()
    with pytest.raises(LoreError, match="cannot be searched"):
        lore.search("floods", character="x")


def test_the_same_in_memory(lore: Lore, lore_folder: Path) -> None:
    with Lore.from_documents(read_folder(lore_folder).documents) as in_memory:
        for line in ("floods", "eel pie", "captain"):
            assert in_memory.search(line, character="x") == lore.search(line, character="x")
        assert in_memory.stats().num_bytes == 0


def test_common_words_cost_no_recall() -> None:
    """A word in thousands of passages is left out of a search, not out of the score."""
    passages = [Passage(id=str(n), text="the old bridge stands here") for n in range(3000)]
    passages.append(Passage(id="gold", text="an old bridge of zircon"))
    lore = Lore.from_documents([Document(name="d", digest="1", read=lambda: passages)])
    assert [one.id for one in lore.search("the old bridge of zircon", character="x", limit=2)] == ["gold"]
    assert len(lore.search("old bridge", character="x", min_score=0)) == 4
