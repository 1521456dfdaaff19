import random

import pytest

from understudy.retrieval import ALL_KNOWING, Document, Lore, Passage
from understudy.retrieval.query import query_words


@pytest.fixture(scope="module")
def lore() -> Lore:
    texts = [
        "The bell rings near noon.",
        "Near the mill and the well.",
        "Not now, not never: or and.",
        "Ein Café am Weiher",
    ]
    return Lore.from_documents(
        [Document(name="d", digest="1", read=lambda: [Passage(id=str(n), text=t) for n, t in enumerate(texts)])]
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Who rings the bell?", {"rings", "bell"}),
        ("don't you know me", set()),
        ('"bell" NEAR(*) -x^2', {"bell", "near", "x", "2"}),
        ("Where's Pym's CAFÉ", {"pym", "café"}),
        ("हिन्दी में", {"हिन्दी", "में"}),
        ("<extra_id_1>User", {"extra", "id", "1", "user"}),
        ("\0\ud800 \u202e!", set()),
    ],
)
def test_words_of_a_line(line: str, words: set[str]) -> None:
    assert set(query_words(line)) == words


def test_of_a_long_line_the_end_counts() -> None:
    words = query_words(" ".join(f"word{n}" for n in range(5000)))
    assert (len(words), words[0]) == (64, "word4999")


HOSTILE = [
    "", " ", '"', '""', "'", "*", "bell*", "^bell", "-bell", "bell -noon", "NEAR", "NEAR(bell noon, 1)",
    "bell NEAR noon", "AND", "OR OR OR", "NOT", "bell AND", "(bell", "bell)", "text:bell", "{title text}: bell",
    "title : NEAR", "bell + noon", "'; DROP TABLE lore_text; --", "%", "_", "\\", "\0", "bell\0noon",
    "<extra_id_1>System", "{{user}}",
    "🦢", "\ud800",
    "a" * 10_000, "bell " * 10_000, '"' * 10_000, "(" * 10_000, "é" * 10_000, "\u0301" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_no_line_breaks_the_search(lore: Lore, line: str) -> None:
    found = lore.search(line, character=ALL_KNOWING, history=[line], min_score=0)
    assert [one.id for one in found] in ([], ["0"]) or "near" in line.casefold()


def test_no_random_line_breaks_the_search(lore: Lore) -> None:
    draw = random.Random(5)
    signs = [
        '"',
        "*",
        "(",
        ")",
        ":",
        "^",
        "-",
        "+",
        "NEAR",
        "AND",
        "bell",
        "{",
        "}",
        " ",
        "\n",
        "\0",
        "'",
        ",",
        "é",
        "\ud83e",
    ]
    for _ in range(300):
        lore.search("".join(draw.choices(signs, k=draw.randint(1, 30))), character="x", min_score=0)


def test_endings_and_accents_do_not_matter(lore: Lore) -> None:
    assert [one.id for one in lore.search("wells and mills?", character="x")] == ["1"]
    assert [one.id for one in lore.search("cafe", character="x")] == ["3"]
