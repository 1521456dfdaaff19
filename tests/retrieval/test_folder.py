import os
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import LoreError
from understudy.retrieval import Lore, Passage, read_folder


def passages(folder: Path, **settings: int) -> dict[str, Passage]:
    return {p.id: p for document in read_folder(folder, **settings).documents for p in document.read()}


def write(folder: Path, name: str, text: str | bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def test_every_kind_of_file(lore_folder: Path) -> None:
    found = passages(lore_folder)
    assert found["river.md#1"] == Passage(
        id="river.md#1", title="The river Sull", text="The Sull is two hundred paces wide.", line=3
    )
    assert (found["river.md#2"].title, found["river.md#2"].line) == ("The river Sull > Floods", 7)
    assert found["inn.txt#1"].title == "inn"
    assert (found["prices.csv#2"].text, found["prices.csv#2"].line) == ("name: Room for a night. price: 2 herons.", 3)
    assert (found["pym"].text, found["pym"].keys) == ("Pym leads the watch.", ("captain",))
    assert found["@reeve/debts.md#1"].known_to == {"reeve"}


def test_markdown_signs_are_not_read_aloud(tmp_path: Path) -> None:
    text = "Setext\n===\nA **bold** [link](x.md) ![map](m.png) here. <!-- not for\nplayers --> End.\n"
    write(tmp_path, "a.md", f"{text}\n```\n# no heading\n```\n")
    assert [(p.title, p.text) for p in passages(tmp_path).values()] == [
        ("Setext", "A bold link here. End.\n\n# no heading")
    ]


def test_front_matter(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.md",
        "---\ntitle: The heir\nkeys: [crown, 'throne']\nknown_to:\n- Maud\n- Old  Pym\n---\nShe lives.",
    )
    (found,) = passages(tmp_path).values()
    assert (found.title, found.keys, found.line) == ("The heir", ("crown", "throne"), 8)
    assert found.known_to == {"maud", "old pym"}


def test_the_nearest_word_on_who_may_know_wins(tmp_path: Path) -> None:
    write(
        tmp_path,
        "scopes.toml",
        '[groups]\nwatch = ["pym", "ada"]\n[files]\n"law/*" = ["watch"]\n"law/open*" = "everybody"\n',
    )
    write(tmp_path, "law/closed.md", "A")
    write(tmp_path, "law/open.md", "B")
    write(tmp_path, "@pym+ada/own.md", "C")
    write(tmp_path, "law/told.md", "---\nknown_to: everybody\n---\nD")
    write(tmp_path, "rows.csv", "text;known_to\nE;watch\nF;\n")
    scopes = {p.text: p.known_to for p in passages(tmp_path).values()}
    watch = {"watch", "pym", "ada"}
    assert scopes == {"A": watch, "B": None, "C": {"pym", "ada"}, "D": None, "E": watch, "F": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"lore": [{"id": "a", "text": "T"}]}', ["a  T"]),
        ('{"spec": "lorebook_v3", "data": {"entries": [{"name": "N", "content": "T"}]}}', ["x N T"]),
        ('{"entries": {"0": {"comment": "C", "content": "T"}, "1": {"content": "-", "disable": true}}}', ["x C T"]),
        (
            '{"Bridge": "A toll.", "Mill": {"sails": 4, "of": {"name": "Bo"}}}',
            ["x Bridge A toll.", "x Mill sails: 4. of name: Bo."],
        ),
        (
            '[{"name": "Axe", "tags": ["old", "iron"], "cursed": true, "weight": null}]',
            ["x Axe name: Axe. tags: old, iron. cursed: yes."],
        ),
    ],
)
def test_json_of_many_kinds(tmp_path: Path, text: str, expected: list[str]) -> None:
    write(tmp_path, "x.json", text)
    assert [f"{p.id.partition('.json')[0]} {p.title} {p.text}" for p in passages(tmp_path).values()] == expected


def test_long_entries_are_divided(tmp_path: Path) -> None:
    write(tmp_path, "x.json", '[{"id": "long", "text": "' + "word " * 50 + '"}]')
    assert list(passages(tmp_path, max_words=20)) == ["long.1", "long.2", "long.3"]


def test_cards_and_a_worlds_people_are_no_lore(tmp_path: Path) -> None:
    write(tmp_path, "card.json", '{"spec": "chara_card_v2", "data": {"name": "A", "description": "secret"}}')
    write(tmp_path, "w/world.json", '{"lore": [{"id": "l1", "text": "T"}]}')
    write(tmp_path, "w/characters.json", '[{"name": "A", "secret": "S"}]')
    write(tmp_path, ".hidden/a.md", "hidden")
    folder = read_folder(tmp_path)
    assert [name for name, _ in folder.skipped] == ["card.json", "w/characters.json"]
    assert [p.text for p in passages(tmp_path).values()] == ["T"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.md", b"good\n\nb\xe4d", "a.md, line 3: this is no UTF-8"),
        ("a.md", b"---\nknown_to: x\nno colon\n---\n", "line 3: expected"),
        ("a.md", b"---\ntitle: x\n", "no closing line"),
        ("a.md", b"---\nknown_to:\n---\nx", '"known_to" must name'),
        ("a.json", b"{", "no valid JSON"),
        ("a.json", b"3", "must hold a list"),
        ("a.json", b"[[1]]", "entry 0 must be an object"),
        ("a.json", b"[" * 100_000, "no valid JSON"),
        ("a.csv", b"a,,c\n1,2,3\n", "must name every column"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: 3 cells under 2 names"),
        ("a.csv", b'a,b\n"1,2\n', "line 2"),
        ("scopes.toml", b"[files", "no valid TOML"),
        ("scopes.toml", b"[people]\na = 1\n", "not people"),
        ("scopes.toml", b'[files]\n"*" = [3]\n', "must name characters"),
        ("a.pdf", b"x", "no lore in"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, text: bytes, words: str) -> None:
    write(tmp_path, name, text)
    if name == "scopes.toml":
        write(tmp_path, "a.md", "x")
    with pytest.raises(LoreError, match=words.replace("[", r"\[")):
        passages(tmp_path)


def test_no_folder_and_too_small_a_bound(tmp_path: Path) -> None:
    with pytest.raises(LoreError, match="no lore folder"):
        read_folder(tmp_path / "nope")
    with pytest.raises(LoreError, match="too short"):
        read_folder(tmp_path, max_words=3)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "inn.txt", "The inn.")
    write(tmp_path, "closed/mill.txt", "The mill.")
    scan = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(LoreError, match="closed cannot be read: Permission denied"):
        read_folder(tmp_path)


def test_half_a_character_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path, "a.json", '[{"id": "\\ud83e", "title": "\\ud83e", "text": "mill \\ud83e", "keys": ["\\ud83e"]}]')
    lore = Lore.from_documents(read_folder(tmp_path).documents)
    assert [one.text for one in lore.search("mill \ud83e", character="\ud83e")] == ["mill ?"]


def test_links_lead_nowhere(tmp_path: Path) -> None:
    write(tmp_path, "lore/a.md", "inside")
    write(tmp_path, "secret.md", "outside")
    (tmp_path / "lore" / "b.md").symlink_to(tmp_path / "secret.md")
    assert [p.text for p in passages(tmp_path / "lore").values()] == ["inside"]


def test_the_digest_tells_of_every_change(lore_folder: Path) -> None:
    def digests(**settings: int) -> dict[str, str]:
        return {document.name: document.digest for document in read_folder(lore_folder, **settings).documents}

    first = digests()
    assert digests() == first
    assert not set(digests(max_words=50).values()) & set(first.values())
    (lore_folder / "inn.txt").write_text("Closed.")
    assert {name for name, digest in digests().items() if digest != first[name]} == {"inn.txt"}
    write(lore_folder, "scopes.toml", "[files]\n")
    assert not set(digests().values()) & set(first.values())
