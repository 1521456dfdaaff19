import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.prompt import MARKERS, AnswerParser, ToolCall, parse_answer


def call(name: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ("", "", ()),
        ("  Well met.\n", "Well met.", ()),
        ('<toolcall> {"name": "f", "arguments": {"a": 1}} </toolcall>\n', "", (call("f", '{"a": 1}'),)),
        ('<toolcall>{"name":"f","arguments":{"a":"é"}}</toolcall>', "", (call("f", '{"a": "é"}'),)),
        ('At once.\n<toolcall> {"name": "f"} </toolcall>\n', "At once.", (call("f"),)),
        ('<toolcall> {"name": "f"} </toolcall>\n<toolcall> {"name": "g"} </toolcall>', "", (call("f"), call("g"))),
        ('<toolcall> [{"name": "f"}, {"name": "g"}] </toolcall>', "", (call("f"), call("g"))),
        ('A <toolcall> {"name": "f"} </toolcall> B', "A   B", (call("f"),)),
        ('<toolcall> {"name": "f", "parameters": {"a": 1}}', "", (call("f", '{"a": 1}'),)),
        ('<toolcall> {"name": "f", "arguments": "{\\"a\\": 1}"} </toolcall>', "", (call("f", '{"a": 1}'),)),
        ('<toolcall> {"name": "f", "arguments": null} </toolcall>', "", (call("f"),)),
        (
            '<toolcall> {"name": "say", "arguments": {"t": "</toolcall> } \\" <tool>"}} </toolcall>',
            "",
            (call("say", '{"t": "</toolcall> } \\" <tool>"}'),),
        ),
        # Malformed or cut off: text, without markers.
        ("<toolcall> open the gate </toolcall>", "open the gate", ()),
        ('<toolcall> {"name": f} </toolcall> Hm.', '{"name": f}  Hm.', ()),
        ('<toolcall> {"name": "f", "arg', '{"name": "f", "arg', ()),
        ('<toolcall> {"n </toolcall>', '{"n', ()),
        ('<toolcall> {"name": 1} </toolcall>', '{"name": 1}', ()),
        ('<toolcall> {"name": ""} </toolcall>', '{"name": ""}', ()),
        ('<toolcall> {"name": "f", "arguments": [1]} </toolcall>', '{"name": "f", "arguments": [1]}', ()),
        ('<toolcall> {"name": "f", "arguments": {"a": NaN}} </toolcall>', '{"name": "f", "arguments": {"a": NaN}}', ()),
        ("<toolcall> [] </toolcall>", "[]", ()),
        ('<toolcall> {"a": <toolcall> {"name": "f"} </toolcall>', '{"a":', (call("f"),)),
        ("<toolcall>", "", ()),
        ("<toolcall> </toolcall>", "", ()),
        ("</toolcall> Hm", "Hm", ()),
        # Other markers that the model spells out.
        ("Hello<extra_id_1>User\n", "HelloUser", ()),
        ("a < b, <tool and <toolbox>", "a < b, <tool and <toolbox>", ()),
    ],
)
def test_answers(answer: str, text: str, calls: tuple[ToolCall, ...]) -> None:
    parsed = parse_answer(answer)
    assert parsed.text == text
    assert parsed.tool_calls == calls


def test_nesting_without_end() -> None:
    body = "[" * 50_000 + "]" * 50_000
    assert parse_answer(f"<toolcall>{body}</toolcall>").text == body


def test_a_stream_speaks_as_early_as_it_can() -> None:
    parser = AnswerParser()
    chunks = ["At", " once", ".", "\n", "<", "toolcall>", ' {"name": "f"}', " </toolcall>", "\n"]
    assert [parser.push(c) for c in chunks] == ["At", " once", ".", "", "", "", "", "", ""]
    assert parser.tool_calls == (call("f"),)
    assert parser.finish() == ""


pieces = st.sampled_from(
    [
        *MARKERS,
        '{"name": "f"}',
        '{"name": "f", "arguments": {"t": "',
        '"}}',
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        "<",
        " ",
        "\n",
        "a",
        "é",
    ]
)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(parts=st.lists(pieces, max_size=12), borders=st.lists(st.integers(0, 400), max_size=20))
def test_a_stream_gives_what_the_whole_gives(parts: list[str], borders: list[int]) -> None:
    answer = "".join(parts)
    places = sorted({0, len(answer), *(b % (len(answer) + 1) for b in borders)})
    parser = AnswerParser()
    spoken = [parser.push(answer[a:b]) for a, b in itertools.pairwise(places)]
    text = "".join(spoken) + parser.finish()
    whole = parse_answer(answer)
    assert (text, parser.tool_calls) == (whole.text, whole.tool_calls)
    assert text == text.strip()


@settings(deadline=None, derandomize=True, max_examples=150)
@given(parts=st.lists(pieces, max_size=12), borders=st.lists(st.integers(0, 400), max_size=20))
def test_broken_calls_are_hidden_however_they_come(parts: list[str], borders: list[int]) -> None:
    answer = "".join(parts)
    places = sorted({0, len(answer), *(b % (len(answer) + 1) for b in borders)})
    stream, whole = AnswerParser(hides_broken_calls=True), AnswerParser(hides_broken_calls=True)
    text = "".join(stream.push(answer[a:b]) for a, b in itertools.pairwise(places)) + stream.finish()
    assert text == whole.push(answer) + whole.finish()
    assert (stream.tool_calls, stream.num_broken_calls) == (whole.tool_calls, whole.num_broken_calls)
    assert stream.tool_calls == parse_answer(answer).tool_calls or stream.num_broken_calls


@pytest.mark.parametrize(
    ("answer", "text", "num_broken"),
    [
        ('Yes. <toolcall> {"name": "f", "arg', "Yes.", 1),
        ('<toolcall> {"name": 3} </toolcall> Yes.', "Yes.", 1),
        ('<toolcall>{"name": "f" <toolcall>{"name": "g"}</toolcall>', "", 1),
        ("<toolcall> I would rather not. </toolcall>", "I would rather not.", 0),
        ("A <toolcall>", "A", 0),
    ],
)
def test_half_a_call_is_hidden_where_that_is_asked_for(answer: str, text: str, num_broken: int) -> None:
    parser = AnswerParser(hides_broken_calls=True)
    assert (parser.push(answer) + parser.finish(), parser.num_broken_calls) == (text, num_broken)
