from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Run


def test_a_newcomer_searches_harrowmere(run: "Run") -> None:
    result = run("lore", "search", "Who rings the bell?")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("lore-05  Old Maud, the bell  (words ")


def test_a_character_finds_what_it_knows(run: "Run") -> None:
    assert "lore-05" not in run("lore", "search", "Who rings Old Maud, the bell?", "--character", "minnow").out
    assert "would be given no lore" in run("lore", "search", "Who is the king of Spain?").out


def test_build_search_stats(run: "Run", tmp_path: Path) -> None:
    (tmp_path / "lore" / "@reeve").mkdir(parents=True)
    (tmp_path / "lore" / "a.md").write_text("# Mill\nThe mill has four sails.")
    (tmp_path / "lore" / "@reeve" / "b.md").write_text("The mill owes nine swans.")
    (tmp_path / "lore" / "card.json").write_text('{"spec": "chara_card_v2", "data": {}}')
    out = tmp_path / "l.db"
    result = run("lore", "build", tmp_path / "lore", "--out", out)
    assert result.code == 0
    assert "skipped card.json: it is a character card" in result.out
    assert f"{out}: 2 passages of 2 documents; 2 read, 0 removed, 0 embedded\n" in result.out
    assert "0 read" in run("lore", "build", tmp_path / "lore", "--out", out).out
    assert "a.md#1  Mill" in run("lore", "search", "sails of the mill", "--database", out).out
    assert "nine swans" not in run("lore", "search", "mill owes", "--database", out, "--character", "x").out
    assert "nine swans" in run("lore", "search", "mill owes", "--database", out, "--character", "Reeve").out
    stats = " ".join(run("lore", "stats", "--database", out).out.split())
    assert "passages 2 known to everybody 1 known to reeve beside 1 embedder none" in stats


def test_the_default_is_built_too(run: "Run", tmp_path: Path) -> None:
    assert "30 passages of 30 documents" in run("lore", "build", "--out", tmp_path / "h.db").out
    assert "lore-05" in run("lore", "search", "bell", "--database", tmp_path / "h.db").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "{tmp}/none"), "There is no lore folder"),
        (("build", "{tmp}"), "There is no lore in"),
        (("build", "--embedder", "ftp://x#y", "--out", "{tmp}/x.db"), "no address of an embedder"),
        (("search", "x", "--database", "{tmp}/none.db"), "understudy lore build"),
        (("stats", "--database", "{tmp}/no.db"), "There is no database"),
        (("search",), "Missing argument"),
    ],
)
def test_a_slip_is_one_sentence(run: "Run", tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("lore", *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert result.err.count("\n") == 1
