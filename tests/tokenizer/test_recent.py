from understudy.testing import byte_tokenizer
from understudy.tokenizer.recent import RecentTexts


def test_the_texts_unused_for_longest_go() -> None:
    recent = RecentTexts(12)
    for text in ("abc", "def", "ghi", "jkl"):
        recent.put(text, (len(text),))
    assert recent.get("abc") == (3,)
    recent.put("mno", (5,))
    assert [recent.get(text) for text in ("abc", "def", "ghi", "jkl", "mno")] == [(3,), None, (3,), (3,), (5,)]
    recent.put("mno", (6,))
    recent.put("", ())
    assert [recent.get(text) for text in ("abc", "mno", "")] == [(3,), (6,), ()]


def test_a_long_text_drives_nothing_out() -> None:
    recent = RecentTexts(12)
    recent.put("abc", (1,))
    recent.put("long", (2,))
    assert (recent.get("abc"), recent.get("long")) == ((1,), None)


def test_ids_given_out_are_the_callers_own() -> None:
    tokenizer = byte_tokenizer()
    first = tokenizer.encode("Good evening!")
    expected = list(first)
    first.clear()
    assert tokenizer.encode("Good evening!") == expected
