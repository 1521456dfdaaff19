"""The records that a conversation is made of."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["Conversation", "Message", "Role", "ToolCall"]

Role = Literal["system", "user", "assistant", "tool"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call of a game function. `arguments` is a JSON text, as models write it and OpenAI's API carries it."""

    name: str
    arguments: str
    id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One turn."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """All that the model is given: turns, OpenAI function schemas, passages of lore."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    contexts: tuple[str, ...] = ()
