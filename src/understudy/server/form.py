"""What an answer is held to: a form that the client asked for, calls of its tools, or both."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from understudy.engine.constraint import Constraint
from understudy.errors import RequestError
from understudy.npc.model import Model
from understudy.server.reading import CallsReader, FormReader, Reader, WordsReader
from understudy.server.schema import ChatRequest, GuidedFields, ResponseFormat
from understudy.tools.grammar import (
    ANY_OBJECT,
    Grammar,
    choice_grammar,
    gbnf_grammar,
    json_schema_grammar,
    lark_grammar,
    regex_grammar,
)

__all__ = ["AnswerForm", "answer_form"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """How an answer is made and read.

    Attributes:
        constraint: makes what holds the model to it; None for free words.
        new_reader: makes what finds words and calls in the text.
        is_exact: every character of the words counts, white space at their ends, too.
        called: the reason that an answer with calls ends with. At OpenAI a call of a named function, which is no choice
            of the model's, just stops.
    """

    constraint: Callable[[], Constraint] | None
    new_reader: Callable[[], Reader] = WordsReader
    is_exact: bool = False
    called: Literal["stop", "tool_calls"] = "tool_calls"


def answer_form(body: ChatRequest, model: Model) -> AnswerForm:
    """What a request's answer is held to.

    Compiling a large grammar takes a while: not for the event loop. Those used lately are kept.

    Raises:
        RequestError: a schema or grammar cannot be held, or two contradict each other; `param` names the field.
    """
    asked = _asked(body)
    if len(asked) > 1:
        first, second = [*asked][:2]
        raise RequestError(f"{second} asks for a form, and so does {first}; send one of them.", param=second)
    param, value = next(iter(asked.items()), ("", None))
    if not body.tools or body.tool_choice == "none":
        if asked:
            constraint = model.vocabulary.compile(_grammar(param, value))
            return AnswerForm(constraint=constraint, new_reader=FormReader, is_exact=True)
        return AnswerForm(constraint=model.call_constraint(()) if body.tools else None)
    if asked and not _is_schema(param):
        raise RequestError(f"{param} cannot be combined with tools; leave one of them out.", param=param)
    if asked and not _may_speak(body.tool_choice):
        raise RequestError(
            f'tool_choice wants a call, and {param} a form of words; send one of them, or tool_choice "auto".',
            param="tool_choice",
        )
    calls = model.call_constraint(
        [tool.to_json() for tool in body.tools],
        choice=body.tool_choice or "auto",
        is_parallel=body.parallel_tool_calls is not False,
        answer_schema=_schema(param, value) if asked else None,
        answer_param=param,
    )
    reader = functools.partial(CallsReader, is_form=bool(asked))
    is_named = isinstance(body.tool_choice, dict) and "function" in body.tool_choice
    called: Literal["stop", "tool_calls"] = "stop" if is_named else "tool_calls"
    return AnswerForm(constraint=calls, new_reader=reader, is_exact=bool(asked), called=called)


def _asked(body: ChatRequest) -> dict[str, Any]:
    """Fields that ask for a form, and what they ask for."""
    asked: dict[str, Any] = {}
    form = body.response_format
    if form is not None and form.type != "text":
        asked |= _asked_format(form)
    for place, fields in (("", body), ("nvext.", body.nvext)):
        for name in GuidedFields.model_fields:
            if (value := getattr(fields, name, None)) is not None:
                asked[f"{place}{name}"] = value
    return asked


def _asked_format(form: ResponseFormat) -> dict[str, Any]:
    if form.json_schema is not None and form.type == "json_schema":
        return {"response_format.json_schema.schema": form.json_schema.schema_ or {}}
    if form.schema_ is not None:
        return {"response_format.schema": form.schema_}
    return {"response_format": ANY_OBJECT}


def _is_schema(param: str) -> bool:
    return param.startswith("response_format") or param.endswith("guided_json")


def _may_speak(choice: Any) -> bool:
    """Whether an answer without calls is allowed."""
    if isinstance(choice, Mapping):
        allowed = choice.get("allowed_tools")
        return isinstance(allowed, Mapping) and allowed.get("mode") == "auto"
    return choice in (None, "auto")


def _grammar(param: str, value: Any) -> Grammar:
    if _is_schema(param):
        return json_schema_grammar(_schema(param, value), param=param)
    if param.endswith("guided_choice"):
        return choice_grammar(value, param=param)
    if param.endswith("guided_regex"):
        return regex_grammar(value, param=param)
    # Only GBNF has this sign.
    is_gbnf = isinstance(value, str) and "::=" in value
    return gbnf_grammar(value, param=param) if is_gbnf else lark_grammar(value, param=param)


def _schema(param: str, value: Any) -> Any:
    """A schema; NIM takes it as JSON text, too."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{param} is a text, but no JSON: {error}.", param=param) from error
