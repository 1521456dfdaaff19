from typing import Any

import pytest

from understudy.errors import RequestError
from understudy.prompt import Message
from understudy.server.conversation import read_conversation
from understudy.server.schema import parse_chat_request

USER = {"role": "user", "content": "Open the gate."}


def call(own_id: str, arguments: Any = '{"side": "north"}') -> dict[str, Any]:
    return {"id": own_id, "type": "function", "function": {"name": "open_gate", "arguments": arguments}}


def asked(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(own_id: str | None, content: str = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": own_id, "content": content}


def read(*messages: dict[str, Any]) -> tuple[tuple[Message, ...], int]:
    request = parse_chat_request({"model": "harrow", "messages": [USER, *messages, USER]})
    conversation, num_left_out = read_conversation(request)
    assert conversation.messages[0].role == conversation.messages[-1].role == "user"
    return conversation.messages[1:-1], num_left_out


def test_results_come_in_the_order_of_their_calls() -> None:
    (said, *results), num_left_out = read(asked(call("a"), call("b")), result("b", "second"), result("a", "first"))
    assert [c.id for c in said.tool_calls] == ["a", "b"]
    assert [r.content for r in results] == ["first", "second"]
    assert num_left_out == 0


@pytest.mark.parametrize("own_id", ["foreign", "", None])
def test_a_result_with_a_foreign_id_belongs_to_the_open_call(own_id: str | None) -> None:
    (said, answer), num_left_out = read(asked(call("a")), result(own_id))
    assert (said.tool_calls[0].id, answer.tool_call_id, num_left_out) == ("a", "a", 0)


@pytest.mark.parametrize("arguments", ['{"side": "no', "north", "[1]", [1], "3"])
def test_calls_that_are_broken_are_left_out_with_their_results(arguments: Any) -> None:
    messages, num_left_out = read(asked(call("a", arguments), content="So."), result("a"))
    assert [(m.role, m.content, m.tool_calls) for m in messages] == [("assistant", "So.", ())]
    assert num_left_out == 1


@pytest.mark.parametrize("arguments", ["", "{}", {}, None])
def test_calls_without_arguments_are_whole(arguments: Any) -> None:
    messages, num_left_out = read(asked(call("a", arguments)), result("a"))
    assert (len(messages), num_left_out) == (2, 0)


def test_a_call_that_nobody_answered_is_left_out() -> None:
    messages, num_left_out = read(asked(call("a")))
    assert (messages, num_left_out) == ((), 1)
    messages, num_left_out = read(asked(call("a"), call("b")), result("b"))
    assert ([c.id for c in messages[0].tool_calls], len(messages), num_left_out) == (["b"], 2, 1)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([result("a")], "messages[1]"),
        ([{"role": "assistant", "content": "So."}, result("a")], "messages[2]"),
        ([asked(call("a")), result("a"), result("a")], "messages[3]"),
        ([asked(call("a")), USER, result("a")], "messages[3]"),
        ([{"role": "function", "name": "f", "content": "1"}], "messages[1]"),
    ],
)
def test_a_result_without_a_call_is_refused(messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(RequestError, match="no call of the assistant before it waits for one") as refused:
        read(*messages)
    assert refused.value.param == param


def test_a_result_that_names_its_function_brings_the_call_that_was_lost() -> None:
    said = {"role": "assistant", "content": "", "tool_calls": None}
    named = [{**result(own_id, own_id), "name": "open_gate"} for own_id in ("a", "b")]
    (turn, *results), num_left_out = read(said, *named)
    assert [(c.id, c.name, c.arguments) for c in turn.tool_calls] == [("a", "open_gate", ""), ("b", "open_gate", "")]
    assert [(r.tool_call_id, r.content) for r in results] == [("a", "a"), ("b", "b")]
    assert num_left_out == 0
    (turn, *results), _ = read(asked(call("a")), *named)
    assert [c.arguments for c in turn.tool_calls] == ['{"side": "north"}', ""]
    with pytest.raises(RequestError, match="no call of the assistant"):
        read(named[0])


def test_a_result_of_the_only_function_brings_its_call() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("open_gate", "ring_bell")]
    body = {"model": "harrow", "messages": [USER, {"role": "assistant", "content": ""}, result("a")]}
    (_, said, answer) = read_conversation(parse_chat_request({**body, "tools": tools[:1]}))[0].messages
    assert ([c.name for c in said.tool_calls], answer.content) == (["open_gate"], "done")
    with pytest.raises(RequestError, match="no call of the assistant"):
        read_conversation(parse_chat_request({**body, "tools": tools}))
