"""Prompts by a checkpoint's own Jinja template, as safe as by the built-in one.

A template returns one string in which the words of players, lore and tools and the markers of the template look
alike. So each string from outside is put between two long random numbers before it is rendered. What stands between
them afterwards is text; only what stands outside is searched for special tokens. Numbers survive all that templates
do to text: trimming, changes of case, JSON and HTML escapes.
"""

import dataclasses
import datetime
import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from understudy.errors import PromptError
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.prompt.messages import Conversation, Message, ToolCall
from understudy.prompt.template import Piece, call_arguments, call_line, render, tool_function, tool_line
from understudy.tokenizer import Tokenizer

__all__ = ["Renderer"]

_FENCE_DIGITS = 40
_FRAGMENT_DIGITS = 10
# The vocabulary of function schemas: templates look these up, and none can be part of a marker.
_SCHEMA_KEYS = frozenset(
    {"type", "function", "name", "description", "parameters", "properties", "required", "items", "enum", "default"}
    | {"anyOf", "allOf", "oneOf", "const", "format", "minimum", "maximum", "title", "nullable", "strict", "return"}
    | {"additionalProperties"}
)
_SCHEMA_TYPES = frozenset({"function", "object", "string", "integer", "number", "boolean", "array", "null"})
# What a template of unknown quality raises while it runs, beside Jinja's own errors.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Renderer:
    """Turns conversations into pieces, by the built-in template or by the checkpoint's own."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        chat_template: str | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
    ) -> None:
        """Choose and compile the template.

        Args:
            tokenizer: knows the special tokens.
            chat_template: the checkpoint's Jinja template; None, or our own, is the built-in one.
            bos_token_id: its text is the template's `bos_token`.
            eos_token_id: its text is the template's `eos_token`.

        Raises:
            PromptError: the template has a syntax error.
        """
        text_of = {token_id: text for text, token_id in tokenizer.specials.items()}
        self._names = {
            "bos_token": text_of.get(bos_token_id, "") if bos_token_id is not None else "",
            "eos_token": text_of.get(eos_token_id, "") if eos_token_id is not None else "",
        }
        self._markers = _marker_pattern(tokenizer.specials)
        self._template: jinja2.Template | None = None
        self._variables: set[str] = set()
        self._has_calls = True
        if chat_template is None or chat_template.strip() == NEMOTRON_CHAT_TEMPLATE:
            return
        environment = _environment()
        try:
            self._variables = jinja2.meta.find_undeclared_variables(environment.parse(chat_template))
            self._template = environment.from_string(chat_template)
            self._has_calls = "tool_calls" in chat_template
        except (jinja2.TemplateError, RecursionError) as error:
            raise PromptError(f"The model's chat template has an error: {error}. Remove or mend it.") from error

    @property
    def is_builtin(self) -> bool:
        """Whether the built-in template is used."""
        return self._template is None

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = True) -> tuple[Piece, ...]:
        """Render a conversation.

        A template that knows no `tools`, or neither `documents` nor `contexts`, gets these as lines of the system
        message, and one that knows no `tool_calls` as lines of the assistant's: nothing is dropped. Pieces of a
        checkpoint's own template are never `is_target`.

        Args:
            conversation: turns, tools and contexts.
            add_generation_prompt: end with the header of the assistant's turn.

        Raises:
            PromptError: no turns, a bad tool, or the template refuses the conversation.
        """
        if self._template is None:
            return render(conversation, add_generation_prompt=add_generation_prompt)
        if not conversation.messages:
            raise PromptError("A conversation needs at least one message.")
        fence = _Fence()
        try:
            values = self._values(self._adapt(conversation), fence)
            prompt = self._template.render(values, add_generation_prompt=add_generation_prompt)
        except _TEMPLATE_ERRORS as error:
            raise PromptError(f"The model's chat template cannot render this conversation: {error}.") from error
        return tuple(self._pieces(prompt, fence))

    def _adapt(self, conversation: Conversation) -> Conversation:
        """Move what the template does not know into the messages."""
        messages = conversation.messages if self._has_calls else tuple(map(_with_call_lines, conversation.messages))
        has_tools = "tools" in self._variables
        has_contexts = not self._variables.isdisjoint({"documents", "contexts"})
        lines = [] if has_tools else [f"<tool> {tool_line(t)} </tool>" for t in conversation.tools]
        lines += [] if has_contexts else [f"<context> {c} </context>" for c in conversation.contexts]
        if lines:
            if messages[0].role != "system":
                messages = (Message(role="system"), *messages)
            system = "\n\n".join(filter(None, (messages[0].content, "\n".join(lines))))
            messages = (dataclasses.replace(messages[0], content=system), *messages[1:])
        return Conversation(
            messages=messages,
            tools=conversation.tools if has_tools else (),
            contexts=conversation.contexts if has_contexts else (),
        )

    def _values(self, conversation: Conversation, fence: "_Fence") -> dict[str, Any]:
        """The template's variables, in Hugging Face's names."""
        tools = [{"type": "function", "function": fence.schema(tool_function(t))} for t in conversation.tools]
        contexts = [fence.text(c) for c in conversation.contexts]
        return {
            **self._names,
            "messages": [_message(m, fence) for m in conversation.messages],
            "tools": tools or None,
            "documents": [{"title": "", "text": c} for c in contexts] or None,
            "contexts": contexts or None,
        }

    def _pieces(self, prompt: str, fence: "_Fence") -> list[Piece]:
        pieces: list[Piece] = []
        for is_trusted, text in fence.split(prompt):
            if is_trusted and self._markers is not None:
                parts = self._markers.split(text)  # every second part is a marker
                pieces += [Piece(p, is_marker=n % 2 == 1) for n, p in enumerate(parts) if p]
            elif text:
                pieces.append(Piece(text))
        return pieces


class _Fence:
    """Two random numbers of one rendering that stand around each string from outside."""

    def __init__(self) -> None:
        self._open, self._close = ("".join(secrets.choice("123456789") for _ in range(_FENCE_DIGITS)) for _ in range(2))

    def text(self, text: str) -> str:
        """Fence a string; white space at its ends stays outside, where a template's `trim` finds it."""
        core = text.strip()
        if not core:
            return text
        begin = text.index(core)
        return f"{text[:begin]}{self._open}{core}{self._close}{text[begin + len(core) :]}"

    def value(self, value: Any) -> Any:
        """Fence all strings of a JSON value, keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(k)): self.value(v) for k, v in value.items()}
        if isinstance(value, Sequence):
            return [self.value(v) for v in value]
        return value

    def schema(self, value: Any, key: str = "") -> Any:
        """Like `value`, but the words of JSON Schema stay as they are, for templates that look at them."""
        if isinstance(value, str):
            return value if key == "type" and value in _SCHEMA_TYPES else self.text(value)
        if isinstance(value, Mapping):
            return {(k if k in _SCHEMA_KEYS else self.text(str(k))): self.schema(v, str(k)) for k, v in value.items()}
        if isinstance(value, Sequence):
            return [self.schema(v, key) for v in value]
        return value

    def split(self, prompt: str) -> list[tuple[bool, str]]:
        """Stretches of the prompt and whether the template wrote them.

        Raises:
            PromptError: a fence is broken, so that nobody can say whose words these are.
        """
        parts = re.split(f"{self._open}(.*?){self._close}", prompt, flags=re.DOTALL)
        starts = range(0, _FENCE_DIGITS, _FRAGMENT_DIGITS)
        fragments = [f[n : n + _FRAGMENT_DIGITS] for f in (self._open, self._close) for n in starts]
        if any(fragment in part for fragment in fragments for part in parts):
            raise PromptError(
                "The model's chat template cuts messages apart, so that their text cannot be told from its markers. "
                "Mend the template, or remove it to use the built-in one."
            )
        return [(n % 2 == 0, part) for n, part in enumerate(parts)]


def _with_call_lines(message: Message) -> Message:
    """Spell a message's calls out in its text."""
    lines = [f"<toolcall> {call_line(c)} </toolcall>" for c in message.tool_calls]
    text = "\n".join(filter(None, (message.content, *lines)))
    return dataclasses.replace(message, content=text, tool_calls=())


def _message(message: Message, fence: _Fence) -> dict[str, Any]:
    values: dict[str, Any] = {"role": message.role, "content": fence.text(message.content)}
    if message.tool_calls:
        values["tool_calls"] = [_call(c, fence) for c in message.tool_calls]
    if message.tool_call_id:
        values["tool_call_id"] = fence.text(message.tool_call_id)
    return values


def _call(call: ToolCall, fence: _Fence) -> dict[str, Any]:
    function = {"name": fence.text(call.name), "arguments": fence.value(call_arguments(call))}
    return {"type": "function", "id": fence.text(call.id), "function": function}


def _marker_pattern(specials: Collection[str]) -> re.Pattern[str] | None:
    """Match a special token; one of white space only is text, because a player's may stand outside the fences."""
    texts = sorted((s for s in specials if s.strip()), key=len, reverse=True)
    return re.compile(f"({'|'.join(re.escape(s) for s in texts)})") if texts else None


class _GenerationTag(jinja2.ext.Extension):
    """Hugging Face's `{% generation %}` block, which marks what a model learns; here it is plain text."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """Take the block's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What Hugging Face renders chat templates with."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
