import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.npc.macros import MacroScope, fill_macros, has_original, unknown_macros

SCOPE = MacroScope(char="Ada", user="Bren", original="Be kind.", seed=7)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{char}} and {{user}}", "Ada and Bren"),
        ("{{CHAR}} {{ User }} <BOT> <char> <User>", "Ada Bren Ada Ada Bren"),
        ("{{original}} Now!", "Be kind. Now!"),
        ("a{{// a note, {{user}} }}b", "ab"),
        ("a{{comment: seen by people}}b", "ab"),
        ("a{{hidden_key:well}}b", "ab"),
        ("{{reverse:Hello}}", "olleH"),
        ("{{reverse:{{user}}}}", "nerB"),
        ("{{random:same}}", "same"),
        (r"{{random:a\,b}}", "a,b"),
        ("{{pick::yes}}", "yes"),
        ("{{roll:1}} {{roll:d1}} {{ROLL:D1}}", "1 1 1"),
        ("{{roll:0}} {{roll:many}}", "{{roll:0}} {{roll:many}}"),
        ("{{weather}} {{}} {{x:y}}", "{{weather}} {{}} {{x:y}}"),
        ("{{char", "{{char"),
        ("char}} {{", "char}} {{"),
        ("{{weather {{char}}}}", "{{weather Ada}}"),
        ("{ {char} } {{{char}}}", "{ {char} } {{{char}}}"),
        ("Zoë {{user}} 龍", "Zoë Bren 龍"),
    ],
)
def test_macros(text: str, filled: str) -> None:
    assert fill_macros(text, SCOPE) == filled


def test_what_is_put_in_is_not_read_again() -> None:
    scope = MacroScope(char="{{user}}", user="{{char}}, {{roll:6}}")
    assert fill_macros("{{char}} <user>", scope) == "{{user}} {{char}}, {{roll:6}}"
    assert fill_macros("{{random:{{user}}}}", scope) == "{{char}}, {{roll:6}}"


def test_hidden_keys_are_seen_where_keys_are_looked_for() -> None:
    seen = MacroScope(char="Ada", user="Bren", shows_hidden=True)
    assert fill_macros("a{{hidden_key: well}}{{// no}}{{comment:no}}b", seen) == "a well b"


def test_draws_repeat_with_the_seed_and_differ_without() -> None:
    text = "{{random:a,b,c,d,e,f,g,h}}{{roll:d1000000}}"
    turns = [fill_macros(text, MacroScope(char="", user="", seed=s, turn=t)) for s in (1, 2) for t in range(5)]
    assert turns == [fill_macros(text, MacroScope(char="", user="", seed=s, turn=t)) for s in (1, 2) for t in range(5)]
    assert len(set(turns)) == 10


def test_a_pick_stays_through_the_turns() -> None:
    text = "{{pick:a,b,c,d,e,f,g,h}}"
    assert len({fill_macros(text, MacroScope(char="", user="", seed=3, turn=t)) for t in range(20)}) == 1
    assert len({fill_macros(text, MacroScope(char="", user="", seed=s)) for s in range(20)}) > 3


def test_all_choices_and_sides_come() -> None:
    scopes = [MacroScope(char="", user="", seed=1, turn=turn) for turn in range(200)]
    assert {fill_macros("{{random:a,b::c}}", s) for s in scopes} == {"a,b", "c"}
    assert {fill_macros("{{random::a::b,c}}", s) for s in scopes} == {"a", "b,c"}
    assert {fill_macros("{{roll:d6}}", s) for s in scopes} == set("123456")


def test_original_is_found() -> None:
    assert has_original("x {{ ORIGINAL }}")
    assert not has_original("original")


def test_unknown_macros_are_named_once() -> None:
    assert unknown_macros("{{char}} {{time}} {{roll:6}} {{time}} {{getvar::x}}") == ["time", "getvar::x"]


@pytest.mark.parametrize("text", ["{{" * 50_000, "{{a" * 25_000 + "}}" * 25_000, "{{random:" * 20_000])
def test_braces_without_end_take_little_time(text: str) -> None:
    start = time.process_time()
    fill_macros(text, SCOPE)
    assert time.process_time() - start < 3


@given(st.text(alphabet="{}:<>,\\/charuse rndomli6", max_size=60))
def test_any_text_is_filled(text: str) -> None:
    assert isinstance(fill_macros(text, SCOPE), str)
