"""Messages, tools and contexts to the model's prompt and back."""

from understudy.prompt.messages import Conversation, Message, Role, ToolCall
from understudy.prompt.template import MARKERS, Piece, encode_pieces, render, render_text, stop_token_ids

__all__ = [
    "MARKERS",
    "Conversation",
    "Message",
    "Piece",
    "Role",
    "ToolCall",
    "encode_pieces",
    "render",
    "render_text",
    "stop_token_ids",
]
