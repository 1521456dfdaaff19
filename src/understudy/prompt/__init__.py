"""Messages, tools and contexts to the model's prompt and back."""

from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.prompt.jinja import Renderer
from understudy.prompt.messages import Conversation, Message, Role, ToolCall
from understudy.prompt.parse import Answer, AnswerParser, parse_answer
from understudy.prompt.template import (
    MARKERS,
    Piece,
    barred_token_ids,
    encode_pieces,
    render,
    render_text,
    stop_token_ids,
    visible_specials,
)

__all__ = [
    "MARKERS",
    "NEMOTRON_CHAT_TEMPLATE",
    "Answer",
    "AnswerParser",
    "Conversation",
    "Message",
    "Piece",
    "Renderer",
    "Role",
    "ToolCall",
    "barred_token_ids",
    "encode_pieces",
    "parse_answer",
    "render",
    "render_text",
    "stop_token_ids",
    "visible_specials",
]
