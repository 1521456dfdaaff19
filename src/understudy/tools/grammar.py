"""What an answer may be, as grammars for llguidance: JSON, choices, regular expressions, Lark, GBNF, tool calls."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from understudy.errors import PromptError, RequestError
from understudy.prompt.template import tool_function
from understudy.tokenizer import Tokenizer
from understudy.tools.schema import narrow_schema

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

__all__ = [
    "ANY_OBJECT",
    "Grammar",
    "ToolChoice",
    "choice_grammar",
    "gbnf_grammar",
    "json_object_grammar",
    "json_schema_grammar",
    "lark_grammar",
    "regex_grammar",
    "tool_grammar",
]

ToolChoice = Literal["auto", "none", "required"]

OPEN_CALL, CLOSE_CALL = "<toolcall>", "</toolcall>"

_MAX_TEXT = 1 << 16
_MAX_REGEX = 2048
_MAX_CHOICES = 1024
_MAX_TOOLS = 128
_MAX_CALLS = 16
_MAX_KEPT = 64
# A character by its number, which llguidance's converter leaves as its Lark cannot read it; not behind `\\`.
_ESCAPE = re.compile(r"\\\\|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# As Python's json.dumps writes it, which is what the model reads and learns; no other white space.
_JSON_STYLE: "JsonCompileOptions" = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}

# Any object, but for its keys' length: a weak model that begins a sentence there never comes to a value.
ANY_OBJECT: Mapping[str, Any] = {
    "$ref": "#/$defs/object",
    "$defs": {
        "object": {
            "type": "object",
            "patternProperties": {"^.{1,40}$": {"$ref": "#/$defs/value"}},
            "additionalProperties": False,
        },
        "value": {
            "anyOf": [
                {"type": ["null", "boolean", "number", "string"]},
                {"type": "array", "items": {"$ref": "#/$defs/value"}},
                {"$ref": "#/$defs/object"},
            ]
        },
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grammar:
    """A grammar that has not met a vocabulary yet.

    Attributes:
        source: in llguidance's own form.
        param: the request's parameter that it comes from, for errors.
        wakes_at: the text before it is free until the model opens this marker; None holds it from the first token on.
        is_silent: the marker is forbidden instead, and the whole text is free.
    """

    source: str
    param: str
    wakes_at: str | None = None
    is_silent: bool = False


def json_schema_grammar(schema: Any, *, param: str = "response_format") -> Grammar:
    """JSON that satisfies a schema, on one line, keys in the schema's order.

    Raises:
        RequestError: the schema is too large, malformed or cannot be held; the message names the keyword.
    """
    narrow = narrow_schema(schema, param=param)
    return Grammar(source=LLMatcher.grammar_from_json_schema(json.dumps(narrow), overrides=_JSON_STYLE), param=param)


def json_object_grammar(*, param: str = "response_format") -> Grammar:
    """Any JSON object; keys have 1 to 40 characters."""
    return json_schema_grammar(ANY_OBJECT, param=param)


def choice_grammar(choices: Any, *, param: str = "guided_choice") -> Grammar:
    """One of some texts.

    Raises:
        RequestError: there are none or too many, or one is no text.
    """
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) and c for c in choices):
        raise RequestError(f"{param} must be a list of texts that are not empty.", param=param)
    if not 1 <= len(choices) <= _MAX_CHOICES:
        raise RequestError(f"{param} must have 1 to {_MAX_CHOICES} texts, got {len(choices)}.", param=param)
    return lark_grammar("start: " + " | ".join(_quoted(c) for c in choices), param=param)


def regex_grammar(pattern: Any, *, param: str = "guided_regex") -> Grammar:
    """A text that a regular expression matches from its first to its last character.

    Raises:
        RequestError: it is no text, empty or too long.
    """
    return Grammar(source=LLMatcher.grammar_from_regex(_text(pattern, _MAX_REGEX, param)), param=param)


def lark_grammar(text: Any, *, param: str = "guided_grammar") -> Grammar:
    """A grammar in llguidance's dialect of Lark, beginning at `start`.

    Raises:
        RequestError: it is no text, empty or too long.
    """
    return Grammar(source=LLMatcher.grammar_from_lark(_text(text, _MAX_TEXT, param)), param=param)


def gbnf_grammar(text: Any, *, param: str = "guided_grammar") -> Grammar:
    """A grammar as llama.cpp reads it, beginning at `root`.

    Raises:
        RequestError: it is no text, empty, too long, or no GBNF.
    """
    _text(text, _MAX_TEXT, param)
    try:
        lark = gbnf_to_lark(_ESCAPE.sub(_written_out, text))
    except Exception as error:  # the library raises bare Exception, and whatever Python does of odd text
        raise RequestError(f"{param}: this is no GBNF grammar: {str(error)[:300]}.", param=param) from error
    return lark_grammar(lark, param=param)


def tool_grammar(
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    choice: ToolChoice | Mapping[str, Any] = "auto",
    is_parallel: bool = True,
    answer_schema: Any = None,
    answer_param: str = "response_format",
) -> Grammar:
    """The model's tool calls, `<toolcall> {"name": …, "arguments": {…}} </toolcall>`, one a line, as in the template.

    Every call names one of the functions, and its arguments satisfy that function's schema.

    Args:
        tools: OpenAI's function schemas, with or without their wrapper.
        tokenizer: the model's own: where it lacks the markers, they are text.
        choice: "auto" leaves the text free until the model opens a call, and no text follows a call; "required" begins
            with a call; `{"function": {"name": …}}` with one of this function and no other; "none" forbids calls;
            `{"allowed_tools": {"mode": …, "tools": […]}}` is "auto" or "required" among some of the functions.
        is_parallel: allow several calls, at most 16.
        answer_schema: with "auto", an answer without calls is JSON of this schema; None for free text.
        answer_param: the request's parameter that it comes from, for errors.

    Raises:
        RequestError: a function's name or schema cannot be used, or the choice names none of them; the message says
            which and why.
    """
    if choice == "none":
        return Grammar(
            source=lark_grammar('start: ""', param="tools").source, param="tools", wakes_at=OPEN_CALL, is_silent=True
        )
    functions = _functions(tools)
    mode, names = _chosen(choice, functions)
    opened, closed = (_marker(m, tokenizer) for m in (OPEN_CALL, CLOSE_CALL))
    more = f'("\\n" {opened} rest){{0,{_MAX_CALLS - 1}}} "\\n"?' if is_parallel and mode != "named" else ""
    is_free = mode == "auto" and answer_schema is None
    lines = [
        f"start: {'calls | answer' if mode == 'auto' and not is_free else 'calls'}",
        f"calls: {'' if is_free else opened} rest {more}",
        f'rest: " " call " " {closed}',
        "call: " + " | ".join(f"call_{n}" for n in range(len(names))),
    ]
    for number, name in enumerate(names):
        beginning = _quoted(f'{{"name": {json.dumps(name)}, "arguments": ')
        lines += [
            f'call_{number}: {beginning} arguments_{number} "}}"',
            f"arguments_{number}: %json {functions[name]}",
        ]
    if mode == "auto" and not is_free:
        schema = narrow_schema(answer_schema, param=answer_param)
        lines.append(f"answer: %json {json.dumps({**schema, 'x-guidance': _JSON_STYLE})}")
    source = LLMatcher.grammar_from_lark("\n".join(lines))
    return Grammar(source=source, param="tools", wakes_at=OPEN_CALL if is_free else None)


def _functions(tools: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
    """Narrowed schemas of the arguments, as JSON, by name."""
    if not 1 <= len(tools) <= _MAX_TOOLS:
        raise RequestError(f"tools must have 1 to {_MAX_TOOLS} functions, got {len(tools)}.", param="tools")
    try:
        text = json.dumps(tools, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"tools: they are no plain JSON: {error}.", param="tools") from error
    if len(text) > 8 * _MAX_TEXT:
        raise RequestError(f"tools: they take more than {8 * _MAX_TEXT} bytes of JSON together.", param="tools")
    return _read_functions(text)


@functools.lru_cache(maxsize=_MAX_KEPT)
def _read_functions(text: str) -> Mapping[str, str]:
    """The same for tools as JSON; kept, for a game sends the same ones with every line."""
    functions: dict[str, str] = {}
    for number, tool in enumerate(json.loads(text)):
        param = f"tools[{number}].function"
        try:
            function = tool_function(tool)
        except PromptError as error:
            raise RequestError(f"tools[{number}]: {error}", param=f"{param}.name") from error
        name = function["name"]
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"tools[{number}]: a function's name is 1 to 64 letters, digits, '_', '-' or '.', got {name[:80]!r}.",
                param=f"{param}.name",
            )
        if name in functions:
            raise RequestError(f"tools[{number}]: there are two functions named {name!r}.", param=f"{param}.name")
        functions[name] = _arguments(function.get("parameters"), param=f"{param}.parameters")
    if sum(len(schema) for schema in functions.values()) > 4 * _MAX_TEXT:
        raise RequestError(f"tools: their schemas take more than {4 * _MAX_TEXT} bytes together.", param="tools")
    return functions


def _arguments(parameters: Any, *, param: str) -> str:
    """The schema of one function's arguments, always an object; none given are none."""
    if parameters is None or parameters == {}:
        parameters = {"type": "object", "properties": {}}
    narrow = narrow_schema(parameters, param=param)
    kinds = narrow.get("type", "object")
    if kinds != "object" and "object" not in kinds:
        raise RequestError(f"{param}: arguments are an object, not {kinds!r}.", param=param)
    return json.dumps({**narrow, "type": "object", "x-guidance": _JSON_STYLE})


def _chosen(choice: ToolChoice | Mapping[str, Any], functions: Mapping[str, str]) -> tuple[str, list[str]]:
    """How a call is chosen, "auto", "required" or "named", and among which functions."""
    if choice == "auto" or choice == "required":
        return choice, [*functions]
    allowed = choice.get("allowed_tools") if isinstance(choice, Mapping) else None
    mode, listed = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, Mapping) else ("named", [choice])
    parts = listed if isinstance(listed, list) else []
    names = [name for part in parts if (name := _name_in(part))]
    if not names or len(names) < len(parts) or mode not in ("auto", "required", "named"):
        raise RequestError(
            'tool_choice must be "auto", "none", "required", {"type": "function", "function": {"name": ...}} or '
            '{"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [...]}}, '
            f"got {str(choice)[:80]!r}.",
            param="tool_choice",
        )
    for name in names:
        if name not in functions:
            raise RequestError(
                f"tool_choice: no tool is named {name!r}; there are {[*functions]}.", param="tool_choice"
            )
    return mode, [*dict.fromkeys(names)]


def _name_in(value: Any) -> str | None:
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _written_out(escape: re.Match[str]) -> str:
    """A character instead of its number; one of ASCII may mean something where it stands, and keeps a number."""
    if not (digits := escape[1] or escape[2]):
        return escape[0]
    code = int(digits, 16)
    return f"\\x{code:02x}" if code < 128 else chr(code)


def _marker(marker: str, tokenizer: Tokenizer) -> str:
    token_id = tokenizer.special_id(marker)
    return _quoted(marker) if token_id is None else f"<[{token_id}]>"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(value: Any, limit: int, param: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= limit:
        raise RequestError(f"{param} must be a text of 1 to {limit} characters.", param=param)
    return value
