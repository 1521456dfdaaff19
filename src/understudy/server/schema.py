"""What a chat request may hold, and a sentence for everything else."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from understudy.engine.logprobs import MAX_TOP_LOGPROBS
from understudy.server.problem import Problem

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "Document",
    "GuidedFields",
    "Record",
    "ResponseFormat",
    "SampledRequest",
    "SamplingFields",
    "StreamOptions",
    "Tool",
    "ToolCallPart",
    "Whole",
    "field_problem",
    "parse_chat_request",
    "unsupported",
]

_MAX_STOPS = 16
_MAX_CHOICES = 8
_MAX_TOOLS = 128
_MAX_MESSAGES = 2048
_MAX_DOCUMENTS = 256
_MAX_BIASES = 1024
_MAX_UNKNOWN = 64
_TYPO_RATIO = 0.85
# Known fields that change nothing here.
_WITHOUT_EFFECT = frozenset(
    {"guided_decoding_backend", "metadata", "prediction", "prompt_cache_key", "prompt_cache_retention"}
    | {"reasoning_effort"}
    | {"safety_identifier", "service_tier", "store", "user", "verbosity"}
)
# Fields that ask for what this server cannot do yet; ignoring them would give a wrong answer with status 200.
_UNSUPPORTED = frozenset(
    {
        "allowed_token_ids",
        "audio",
        "bad_words",
        "best_of",
        "chat_template",
        "continue_final_message",
        "ebnf",
        "echo",
        "function_call",
    }
    | {"functions", "grammar", "ignore_eos", "json_schema", "prompt_logprobs", "regex"}
    | {"stop_token_ids", "structured_outputs", "use_beam_search", "web_search_options"}
)


def _whole(value: Any) -> Any:
    """Godot and other engines write every number with a decimal point."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _joined_parts(value: Any) -> Any:
    """A list of text parts as one text."""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if isinstance(part, dict) and kind in ("text", "refusal") else None
        if not isinstance(text, str):
            raise ValueError(f'must be a text, or parts {{"type": "text", "text": "..."}}; got {_shown(part)}')
        texts.append(text)
    return "".join(texts)


def _json_text(value: Any) -> Any:
    """Arguments of an earlier call as the JSON text that the API carries."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"must be a text or a list of texts, none of them empty; got {_shown(value)}")
    return stops


def _biases(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > _MAX_BIASES:  # before each of them is looked at
        raise ValueError(f"must have at most {_MAX_BIASES} tokens, got {len(value)}")
    return value


def _document(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


def _choice_of_tool(value: Any) -> Any:
    if value is None or value in ("auto", "none", "required"):
        return value
    kind = value.get("type", "function") if isinstance(value, dict) else None
    if kind not in ("function", "allowed_tools") or kind not in value:
        raise ValueError(
            'must be "auto", "none", "required", {"type": "function", "function": {"name": "..."}} or '
            f'{{"type": "allowed_tools", "allowed_tools": {{...}}}}, got {_shown(value)}'
        )
    return {kind: value[kind]}


def _modalities(value: Any) -> Any:
    if value not in (None, ["text"]):
        raise ValueError(f'must be ["text"], nothing else is supported; got {_shown(value)}')
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str | None, BeforeValidator(_joined_parts, json_schema_input_type=str | list[dict[str, str]] | None)]


class Record(BaseModel):
    """JSON types as they are written; unknown fields are kept, to be named."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Function(Record):
    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[str, BeforeValidator(_json_text)] = ""


class ToolCallPart(Record):
    """A call in an earlier answer of the assistant."""

    id: str | None = None
    function: _Function


class ChatMessage(Record):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text = None
    tool_calls: Annotated[list[ToolCallPart], Field(max_length=_MAX_TOOLS, fail_fast=True)] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    name: str | None = None


class Document(Record):
    """A passage that the model may answer from."""

    title: str | None = None
    text: Annotated[str, Field(min_length=1)]


class StreamOptions(Record):
    """What a stream ends with."""

    include_usage: bool | None = None


class _JsonSchema(Record):
    name: Annotated[str, Field(min_length=1)]
    strict: bool | None = None
    # `schema` is a name of pydantic's own; without one, any JSON will do.
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class ResponseFormat(Record):
    """The form that the answer shall have; other servers take a `schema` beside `json_object`, so it is taken here."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class GuidedFields(Record):
    """NIM's ways to ask for a form; what they may hold is checked where the grammars are made."""

    guided_json: Any = None
    guided_choice: Any = None
    guided_regex: Any = None
    guided_grammar: Any = None


class _ToolFunction(Record):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # without effect: every schema is held to


class Tool(Record):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: _ToolFunction

    def to_json(self) -> dict[str, Any]:
        """What the model is shown: always in the order that it was trained on."""
        function = {
            "name": self.function.name,
            "description": self.function.description,
            "parameters": self.function.parameters,
        }
        return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


class SamplingFields(Record):
    """How tokens are drawn, in requests and in lines to characters; ranges are the engine's to check."""

    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Whole | None = None
    dry_sequence_breakers: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=40)]], Field(max_length=_MAX_STOPS)] | None
    ) = None


class SampledRequest(SamplingFields):
    """What all requests for words share."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    min_tokens: Annotated[Whole, Field(ge=0)] | None = None
    n: Annotated[Whole, Field(ge=1, le=_MAX_CHOICES)] | None = None
    stop: Annotated[
        list[str],
        Field(max_length=_MAX_STOPS),
        BeforeValidator(_stops, json_schema_input_type=str | list[str] | None),
    ] = []
    seed: Whole | None = None
    logit_bias: Annotated[
        dict[str, float] | None, BeforeValidator(_biases, json_schema_input_type=dict[str, float] | None)
    ] = None


class ChatRequest(GuidedFields, SampledRequest):
    """The body of `POST /v1/chat/completions`."""

    # A list of a million faults would be a million errors: the first one will do.
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=_MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Annotated[Any, BeforeValidator(_choice_of_tool)] = None
    parallel_tool_calls: bool | None = None
    documents: (
        Annotated[
            list[Annotated[Document, BeforeValidator(_document, json_schema_input_type=str | Document)]],
            Field(max_length=_MAX_DOCUMENTS, fail_fast=True),
        ]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    nvext: GuidedFields | None = None
    character: Annotated[str, Field(min_length=1)] | None = None
    modalities: Annotated[Any, BeforeValidator(_modalities)] = None

    @property
    def ignored_fields(self) -> list[str]:
        """Fields that nobody here knows."""
        extended = (self.nvext.model_extra or {}) if self.nvext else {}
        names = [*(self.model_extra or {}), *(f"nvext.{name}" for name in extended)]
        return sorted(set(names) - _WITHOUT_EFFECT - _UNSUPPORTED)


def parse_chat_request(value: Mapping[str, Any]) -> ChatRequest:
    """Check a body.

    Raises:
        Problem: the first fault; its `param` names the field.
    """
    _refuse_unsupported(value)
    try:
        request = ChatRequest.model_validate(value)
    except ValidationError as error:
        raise field_problem(error.errors(include_url=False)[0]) from error
    if len(request.model_extra or ()) > _MAX_UNKNOWN:
        raise Problem(400, f"The body has more than {_MAX_UNKNOWN} unknown fields.", code="unknown_parameter")
    for name in request.model_extra or ():
        if name not in _WITHOUT_EFFECT | _UNSUPPORTED:
            _refuse_typo(name)
    _check_messages(request.messages)
    if request.stream_options is not None and not request.stream:
        raise _invalid('is only allowed with "stream": true', "stream_options")
    if request.top_logprobs and not request.logprobs:
        raise _invalid('is only allowed with "logprobs": true', "top_logprobs")
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        raise _invalid("is missing", "response_format.json_schema")
    if request.tool_choice not in (None, "auto", "none") and not request.tools:
        raise _invalid("asks for a call, but there are no tools", "tool_choice")
    names = [tool.function.name for tool in request.tools or ()]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise _invalid(f"has the function {doubled!r} twice; rename one", "tools")
    return request


def _refuse_unsupported(value: Mapping[str, Any]) -> None:
    """Name a field that cannot be honoured; one that is switched off does no harm."""
    for name, given in value.items():
        if name in _UNSUPPORTED and given not in (None, False, 0, [], "none", "auto"):
            raise unsupported(name)
    extension = value.get("nvext")
    for place, fields in (("", value), ("nvext.", extension if isinstance(extension, dict) else {})):
        for name, given in fields.items():
            is_known = name in GuidedFields.model_fields or name in _WITHOUT_EFFECT
            if name.startswith("guided_") and not is_known and given is not None:
                raise unsupported(f"{place}{name}")


def _refuse_typo(name: str) -> None:
    # The required fields are there; so `models`, which some clients send beside `model`, is no typing error.
    optional = [field for field, info in ChatRequest.model_fields.items() if not info.is_required()]
    near = difflib.get_close_matches(name, optional, n=1, cutoff=_TYPO_RATIO)
    if near:
        raise Problem(
            400,
            f"There is no field {name!r}; did you mean {near[0]!r}?",
            param=name,
            code="unknown_parameter",
        )


def _check_messages(messages: Sequence[ChatMessage]) -> None:
    for number, message in enumerate(messages):
        if message.content is None and message.role in ("system", "developer", "user"):
            raise _invalid("is missing; a message needs a text", f"messages[{number}].content")
        if (message.tool_calls or message.function_call) and message.role != "assistant":
            raise _invalid("are only allowed in messages of the assistant", f"messages[{number}].tool_calls")


def field_problem(error: ErrorDetails) -> Problem:
    """Pydantic's finding in OpenAI's shape."""
    param = ""
    for step in error["loc"]:
        param += f"[{step}]" if isinstance(step, int) else f".{step}" if param else str(step)
    if error["type"] == "missing":
        return _invalid("is missing", param)
    if error["type"] == "value_error":
        return _invalid(str(error["ctx"]["error"]), param)
    what = error["msg"].replace("Input should", "must", 1).replace(" after validation", "")
    what = what.replace("List should have", "must have", 1).replace("String should", "must", 1)
    what = what[0].lower() + what[1:]
    got = "" if error["type"] in ("too_short", "too_long") else f", got {_shown(error['input'])}"
    return _invalid(what + got, param)


def _invalid(what: str, param: str) -> Problem:
    return Problem(400, f"{param} {what}.", param=param or None, code="invalid_value")


def unsupported(name: str) -> Problem:
    """The answer to a field that asks for what is not there."""
    return Problem(400, f"{name} is not yet supported; leave it out.", param=name, code="unsupported_parameter")


def _shown(value: Any) -> str:
    """A value, shortened, as JSON."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
