"""A request's messages, tools and documents as the model is shown them."""

from collections.abc import Sequence

from understudy.errors import RequestError
from understudy.prompt import Conversation, Message, Role, ToolCall
from understudy.server.schema import ChatMessage, ChatRequest, Document, ToolCallPart
from understudy.tools.history import mend_history

__all__ = ["read_conversation"]

_ROLES: dict[str, Role] = {"developer": "system", "function": "tool"}


def read_conversation(body: ChatRequest) -> tuple[Conversation, int]:
    """What the model is shown, and how many calls of the history it is not shown.

    Left out are calls that a model should not learn from: without a result, or whose arguments are no JSON object.
    A result with a foreign id belongs to the first call that has none.

    Raises:
        RequestError: a tool's result belongs to no call.
    """
    _add_lost_calls(body.messages, [tool.function.name for tool in body.tools or ()])
    _check_results(body.messages)
    messages = [_message(message) for message in body.messages]
    mended = mend_history(messages)
    has_tools = body.tools and body.tool_choice != "none"
    conversation = Conversation(
        messages=tuple(mended),
        tools=tuple(tool.to_json() for tool in body.tools or ()) if has_tools else (),
        contexts=tuple(map(_passage, body.documents or ())),
    )
    return conversation, _num_calls(messages) - _num_calls(mended)


def _add_lost_calls(messages: Sequence[ChatMessage], offered: Sequence[str]) -> None:
    """Give the assistant back the calls whose results follow.

    LangChain's NVIDIA client sends no calls but those that it read itself, not those of a history made by hand. Where
    the result names its function, or only one is offered, the call is known but for its arguments.
    """
    only = offered[0] if len(offered) == 1 else None
    owner, num_open = None, 0
    for message in messages:
        if message.role != "tool":
            owner = message if message.role == "assistant" else None
            num_open = len(message.tool_calls or ()) + (message.function_call is not None)
        elif num_open > 0:
            num_open -= 1
        elif owner is not None and (name := message.name or only):
            lost = ToolCallPart.model_validate({"id": message.tool_call_id, "function": {"name": name}})
            owner.tool_calls = owner.tool_calls or []
            owner.tool_calls.append(lost)


def _check_results(messages: Sequence[ChatMessage]) -> None:
    num_open = 0
    for number, message in enumerate(messages):
        if message.role not in ("tool", "function"):
            num_open = len(message.tool_calls or ()) + (message.function_call is not None)
        elif num_open == 0:
            raise RequestError(
                f"messages[{number}] is the result of a tool, but no call of the assistant before it waits for one; "
                "send the assistant's message with its tool_calls, too.",
                param=f"messages[{number}]",
            )
        else:
            num_open -= 1


def _num_calls(messages: Sequence[Message]) -> int:
    return sum(len(message.tool_calls) for message in messages)


def _message(message: ChatMessage) -> Message:
    calls = [
        ToolCall(name=c.function.name, arguments=c.function.arguments, id=c.id or "") for c in message.tool_calls or ()
    ]
    if message.function_call:
        calls.append(ToolCall(name=message.function_call.name, arguments=message.function_call.arguments))
    return Message(
        role=_ROLES.get(message.role, message.role),  # type: ignore[arg-type]
        content=message.content or "",
        tool_calls=tuple(calls),
        tool_call_id=message.tool_call_id or "",
    )


def _passage(document: Document) -> str:
    return f"{document.title}: {document.text}" if document.title else document.text
