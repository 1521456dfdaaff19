import random

import pytest

from understudy.retrieval import ALL_KNOWING, Document, Lore, Passage
from understudy.retrieval.scopes import Scopes

WORDS = "bell flood toll eel swan heron bridge crown ferry watch mill well rope debt oath".split()  # noqa: SIM905
NAMES = [f"reader {n}" for n in range(12)]


def test_rules_groups_and_folders() -> None:
    scopes = Scopes(
        groups={"watch": frozenset({"pym"})}, rules=(("a/*", frozenset({"watch"})), ("a/b.md", frozenset({"x"})))
    )
    assert scopes.of_file("a/c.md") == {"watch", "pym"}
    assert scopes.of_file("a/b.md") == {"x"}
    assert scopes.of_file("@Old Maud+watch/deep/c.md") == {"old maud", "watch", "pym"}
    assert scopes.of_file("@file.md") is None


def build(num_passages: int, draw: random.Random) -> tuple[Lore, dict[str, frozenset[str] | None]]:
    known_to = {
        f"p{n}": draw.choice([None, frozenset(), frozenset(draw.sample(NAMES, draw.randint(1, 4)))])
        for n in range(num_passages)
    }
    passages = [Passage(id=i, text=" ".join(draw.choices(WORDS, k=8)), known_to=who) for i, who in known_to.items()]
    return Lore.from_documents([Document(name="d", digest="1", read=lambda: passages)]), known_to


def check(num_queries: int, num_passages: int) -> int:
    """Ask at random; how many passages came that not everybody may know."""
    draw = random.Random(7)
    lore, known_to = build(num_passages, draw)
    num_guarded = 0
    for _ in range(num_queries):
        who = draw.choice([*NAMES, "", "nobody", "READER 3", " reader  4 ", "reader", "%", "reader 1' OR '1'='1"])
        line, before = " ".join(draw.choices(WORDS, k=3)), [" ".join(draw.choices(WORDS, k=2))]
        found = lore.search(line, character=who, history=before, limit=draw.randint(1, 50), min_score=0)
        name = " ".join(who.split()).casefold()
        assert all(known_to[one.id] is None or name in (known_to[one.id] or ()) for one in found)
        num_guarded += sum(known_to[one.id] is not None for one in found)
    return num_guarded


def test_nobody_learns_what_is_not_theirs() -> None:
    assert check(120, 200) > 120


@pytest.mark.slow
def test_nobody_learns_what_is_not_theirs_in_5000_queries() -> None:
    assert check(5000, 2000) > 5000


def test_the_narrator_knows_all() -> None:
    lore, known_to = build(60, random.Random(8))
    found = {one.id for word in WORDS for one in lore.search(word, character=ALL_KNOWING, limit=50, min_score=0)}
    assert len(found) > 50
    assert any(known_to[one] == frozenset() for one in found)
