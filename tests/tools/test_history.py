import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.prompt import Message, ToolCall
from understudy.tools.history import mend_history


def call(call_id: str = "", name: str = "ring", arguments: str = "{}") -> ToolCall:
    return ToolCall(name=name, arguments=arguments, id=call_id)


def calls(*those: ToolCall, content: str = "") -> Message:
    return Message(role="assistant", content=content, tool_calls=those)


def result(content: str, call_id: str = "") -> Message:
    return Message(role="tool", content=content, tool_call_id=call_id)


HELLO = Message(role="user", content="Hello")
REPLY = Message(role="assistant", content="Good day")


def test_a_sound_history_stays() -> None:
    sound = [
        HELLO,
        calls(call("a"), call("b", "foreign_function"), content="Wait."),
        result("1", "a"),
        result("2", "b"),
    ]
    assert mend_history([*sound, REPLY, HELLO]) == [*sound, REPLY, HELLO]


def test_calls_and_results_without_their_other_half_go() -> None:
    assert mend_history([HELLO, calls(call("a")), REPLY]) == [HELLO, REPLY]
    assert mend_history([HELLO, calls(call("a"), content="Wait."), REPLY])[1] == Message(
        role="assistant", content="Wait."
    )
    assert mend_history([result("0", "a"), HELLO, result("1"), REPLY]) == [HELLO, REPLY]
    assert mend_history([calls(call("a")), result("1", "a"), result("2", "a")]) == [calls(call("a")), result("1", "a")]


def test_broken_calls_go_with_their_results() -> None:
    broken = [
        call("b", arguments='{"x'),
        call("c", name=" "),
        call("d", arguments="[1]"),
        call("e", arguments="[" * 9999),
    ]
    those = [calls(call("a"), *broken), result("2", "b"), result("1", "a"), *(result("x", c.id) for c in broken[1:])]
    assert mend_history(those) == [calls(call("a")), result("1", "a")]
    assert mend_history(those[:2]) == []


def test_results_are_put_in_order() -> None:
    those = [calls(call("a"), call("b")), result("2", "b"), result("1", "a")]
    assert mend_history(those) == [those[0], those[2], those[1]]
    without_ids = [calls(call(), call()), result("1"), result("2")]
    assert mend_history(without_ids) == without_ids
    foreign = [calls(call("a"), call("b")), result("1", "toolu_1"), result("2", "b")]
    assert mend_history(foreign) == [foreign[0], result("1", "a"), result("2", "b")]


def test_only_the_character_calls() -> None:
    assert mend_history([dataclasses.replace(HELLO, tool_calls=(call("a"),)), result("1", "a")]) == [HELLO]


MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.sampled_from(["", "words"]),
    tool_calls=st.lists(
        st.builds(
            call, st.sampled_from(["", "a", "b"]), st.sampled_from(["", "ring"]), st.sampled_from(["{}", "{", "3"])
        ),
        max_size=3,
    ).map(tuple),
    tool_call_id=st.sampled_from(["", "a", "b", "z"]),
)


@settings(max_examples=60)
@given(st.lists(MESSAGES, max_size=12))
def test_any_history_becomes_sound(messages: list[Message]) -> None:
    mended = mend_history(messages)
    assert mend_history(mended) == mended
    waiting: list[str] = []
    for message in mended:
        if message.role == "tool":
            assert message.tool_call_id == waiting.pop(0)
            continue
        assert waiting == []
        assert all(one.name and one.arguments == "{}" for one in message.tool_calls)
        waiting = [one.id for one in message.tool_calls]
    assert waiting == []
    kept = [m.content for m in messages if m.role in ("user", "system")]
    assert [m.content for m in mended if m.role in ("user", "system")] == kept
