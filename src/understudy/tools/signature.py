"""What a Python function's signature and docstring say, as a JSON schema and a reader of arguments."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from understudy.errors import ToolError

__all__ = ["arguments_model", "parameters_schema", "read_docstring", "read_signature"]

_SECTION = re.compile(
    r"(args|arguments|parameters|attributes|returns?|yields?|raises|examples?|notes?|references|warns?|warnings?):\s*",
    re.IGNORECASE,
)
_ITEM = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
# Their values are data, not schemas.
_DATA = ("const", "default", "enum", "examples")
_DROPPED = ("$defs", "discriminator", "title")


def read_signature(name: str, function: Callable[..., Any]) -> inspect.Signature:
    """The signature, its annotations evaluated.

    Raises:
        ToolError: it cannot be read, or says that the function returns what is no JSON.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise ToolError(f"The signature of {name} cannot be read: {error}.") from error
    returned = signature.return_annotation
    if returned in (inspect.Signature.empty, None, Any, object):
        return signature
    try:
        TypeAdapter(returned).json_schema(mode="serialization")
    except (NameError, PydanticUserError, TypeError, ValueError) as error:
        raise ToolError(
            f"{name} returns {inspect.formatannotation(returned)}, which cannot be told to the model as JSON: return "
            "a text, numbers, lists, dicts, dataclasses or pydantic models."
        ) from error
    return signature


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The description, and what `Args:` says of each parameter (Google style); each on one line."""
    summary: list[str] = []
    notes: dict[str, list[str]] = {}
    section, item, indent = "", None, 0
    for line in inspect.cleandoc(text).splitlines():
        depth = len(line) - len(line.lstrip())
        if not depth and (title := _SECTION.fullmatch(line)):
            section, item = title[1].lower(), None
        elif not section:
            summary.append(line)
        elif section in ("args", "arguments", "parameters") and line.strip():
            indent = depth if item is None else indent
            found = _ITEM.fullmatch(line.strip()) if depth <= indent else None
            if found:
                item = notes.setdefault(found[1], [])
            if item is not None:
                item.append(found[2] if found else line)
    return _one_line(summary), {name: _one_line(lines) for name, lines in notes.items()}


def arguments_model(name: str, signature: inspect.Signature, notes: Mapping[str, str]) -> type[BaseModel]:
    """A model whose fields' aliases are the parameters; anything else is refused.

    Args:
        name: of the function, for errors.
        signature: of the function.
        notes: descriptions by parameter; `Annotated[..., Field(description=...)]` wins.

    Raises:
        ToolError: a parameter cannot be given by name from JSON, or has no type; a note is of no parameter.
    """
    for noted in notes:
        if noted not in signature.parameters:
            raise ToolError(
                f"The docstring of {name} describes {noted!r}, which is no parameter of it. Rename it there."
            )
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(signature.parameters.values()):
        _check(name, parameter)
        given: dict[str, Any] = {"alias": parameter.name}
        given["default"] = PydanticUndefined if parameter.default is parameter.empty else parameter.default
        if parameter.name in notes and not _is_described(parameter.annotation):
            given["description"] = notes[parameter.name]
        # Numbered, for `schema` or `_id` can be no field of a pydantic model.
        fields[f"p{number}"] = (parameter.annotation, Field(**given))
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except (NameError, PydanticUserError, TypeError, ValueError) as error:
        raise ToolError(f"A type in the signature of {name} cannot be read from JSON: {_first_line(error)}") from error


def parameters_schema(name: str, arguments: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of the arguments: no titles, and no references but to types that hold themselves.

    Raises:
        ToolError: a type or a default has no JSON form.
    """
    try:
        schema = arguments.model_json_schema(by_alias=True)
    except (PydanticUserError, TypeError, ValueError) as error:
        raise ToolError(f"A type in the signature of {name} has no JSON schema: {_first_line(error)}") from error
    definitions = schema.get("$defs", {})
    kept = {one for one in definitions if one in _reached(definitions[one], definitions, set())}
    plain = _plain(schema, definitions, kept)
    if kept:
        plain["$defs"] = {one: _plain(definitions[one], definitions, kept) for one in sorted(kept)}
    return {"type": "object", "properties": {}, **plain}


def _check(name: str, parameter: inspect.Parameter) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ToolError(f"{name} takes {str(parameter)!r}; a model gives each argument by its name. Write them out.")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ToolError(f"{name} takes {parameter.name!r} by position only; a model gives it by name. Remove the '/'.")
    if parameter.annotation is parameter.empty:
        raise ToolError(f"{name} does not say the type of {parameter.name!r}. Annotate it, e.g. {parameter.name}: str.")


def _is_described(annotation: Any) -> bool:
    return any(isinstance(one, FieldInfo) and one.description for one in getattr(annotation, "__metadata__", ()))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _one_line(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def _target(node: Mapping[str, Any]) -> str:
    return str(node.get("$ref", "")).removeprefix("#/$defs/")


def _reached(node: Any, definitions: Mapping[str, Any], seen: set[str]) -> set[str]:
    """All definitions that a schema refers to, at once or by others."""
    inner = node if isinstance(node, list) else list(node.values()) if isinstance(node, dict) else []
    if isinstance(node, dict) and (target := _target(node)) and target not in seen:
        seen.add(target)
        inner.append(definitions[target])
    for one in inner:
        _reached(one, definitions, seen)
    return seen


def _plain(node: Any, definitions: Mapping[str, Any], kept: set[str], *, is_names: bool = False) -> Any:
    """A schema with its references written out; `is_names`: the keys are names of properties."""
    if isinstance(node, list):
        return [_plain(one, definitions, kept) for one in node]
    if not isinstance(node, dict):
        return node
    target = "" if is_names else _target(node)
    if target and target not in kept:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _plain({**definitions[target], **beside}, definitions, kept)
    return {
        key: value
        if key in _DATA and not is_names
        else _plain(value, definitions, kept, is_names=key == "properties" and not is_names)
        for key, value in node.items()
        if is_names or key not in _DROPPED
    }
