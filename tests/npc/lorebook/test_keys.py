import time

import pytest

from understudy.npc.lorebook.keys import MAX_SCANNED, KeySearch, pattern_problem


def finds(
    key: str, text: str, *, is_regex: bool = False, case_sensitive: bool = False, whole_words: bool = True
) -> bool:
    search = KeySearch([text])
    return search.finds(key, depth=1, is_regex=is_regex, case_sensitive=case_sensitive, whole_words=whole_words)


@pytest.mark.parametrize(
    ("key", "text", "is_found"),
    [
        (r"/\bking\b/", "the king!", True),
        (r"/\bking\b/", "the kingdom", False),
        (r"/\d{3}-\d/", "no. 123-4", True),
        (r"/[\w-]+@[\w.]+/", "ada@forge.net", True),
        (r"/[^\w\s\x01]/", "plain words", False),
        (r"/[[&~]/", "a & b", True),
        (r"/[[&~]/", "a b", False),
        (r"/a\/b/", "a/b", True),
        (r"/[/]/", "a/b", False),  # a slash within ends it: these are plain words
        (r"/\u9f8d/", "龍", True),
        (r"/\p{Han}/", "龍", True),
        (r"/straße/i", "STRASSE", False),
        (r"straße", "STRASSE", True),
        (r"/(?<name>ada)/", "ada", True),
        (r"/ada/gu", "ada", True),
        (r"/ada/y", "ada and bo", False),  # a line begins with the sign 1
        (r"/bo\n/", "bo\nada", True),
    ],
)
def test_patterns(key: str, text: str, is_found: bool) -> None:
    assert finds(key, text) is is_found


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("/(?=a)/", "look-around"),
        (r"/(a)\1/", "backreferences"),
        ("/[/", "unclosed character class"),
        ("/a(/", "unclosed group"),
        ("/a{1000}/", "counts more than 100"),
        ("/(a{20}){20}/", "counts more than 100"),
        (r"/\p{L}{5}/", "names scripts"),
        ("/" + r"[\u0430-\u044f]" * 9 + "/", "ranges beyond ASCII"),
        ("/" + "a" * 501 + "/", "longer than 500"),
        ("plain", ""),
        ("/fine/", ""),
    ],
)
def test_problems_are_told(key: str, problem: str) -> None:
    found = pattern_problem(key)
    assert problem in found
    assert bool(found) == bool(problem)
    assert not found or not finds(key, "a")


def test_only_the_last_part_of_a_long_text_is_searched() -> None:
    assert finds("well", "well" + " " * (MAX_SCANNED - 8) + "ends")
    assert not finds("well", "well" + " " * MAX_SCANNED)


def test_the_largest_patterns_are_searched_in_little_time() -> None:
    start = time.process_time()
    for n in range(20):
        finds("/" + "|".join(f"(?:[ab].{{0,2}}){{0,2}}{n}{m}" for m in range(3)) + "/i", "ab" * 50_000)
    assert time.process_time() - start < 10
