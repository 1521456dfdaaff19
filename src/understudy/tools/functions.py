"""A game's Python functions as tools: the schema that the model reads, and calls that are checked before they run."""

import asyncio
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import json
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from understudy.errors import PromptError, ToolError
from understudy.prompt.template import tool_function
from understudy.tools.signature import arguments_model, parameters_schema, read_docstring, read_signature

__all__ = ["FunctionTool", "ToolResult", "ToolStatus", "load_tools", "refusal", "tool"]

ToolStatus = Literal["ok", "invalid", "failed", "refused"]

_logger = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_REASON = 300
_MAX_FAULTS = 4
_MAX_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What came of a call.

    Attributes:
        text: what the model is told.
        status: "ok"; "invalid": the arguments or the name were wrong; "failed": the function raised an error;
            "refused": it was not run.
        error: what the function raised, for the game; the model is told its message only.
    """

    text: str
    status: ToolStatus = "ok"
    error: Exception | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FunctionTool:
    """A function that a character may call. Calling the record calls the function as it was written.

    Attributes:
        name: what the model calls it.
        description: what it does, for the model.
        schema: OpenAI's `{"type": "function", "function": {"name", "description", "parameters"}}`.
        function: what is run; None where there is only a schema, then calls are shown and not run.
        arguments: reads the arguments, if there is a function.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    function: Callable[..., Any] | None = None
    arguments: type[BaseModel] | None = dataclasses.field(default=None, repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, for the game's own code: nothing is checked or converted.

        Raises:
            ToolError: there is only a schema.
        """
        if self.function is None:
            raise ToolError(f"{self.name} has a schema but no function; calls of it can be shown, not run.")
        return self.function(*args, **kwargs)

    def read(self, arguments: str) -> dict[str, Any]:
        """Check a call's arguments, and convert them to the types in the function's signature.

        Args:
            arguments: a JSON object; empty for none.

        Returns:
            Values by parameter; those left out are missing, so that the function's defaults hold. Where there is only
            a schema, the object as it came.

        Raises:
            ToolError: they do not fit; the text is fit for the model.
        """
        if self.arguments is None:
            return _read_object(arguments)
        try:
            values = self.arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            raise ToolError(_faults(error)) from error
        fields = self.arguments.model_fields
        return {str(fields[key].alias): getattr(values, key) for key in fields if key in values.model_fields_set}

    def invoke(self, values: Mapping[str, Any], *, timeout_s: float | None = None) -> ToolResult:
        """Run the function on what `read` gave; an async one in an event loop of its own.

        An error of the function is logged with its traceback; the model is told its message. A ToolError is how the
        game says no: it is told, and not logged.

        Args:
            values: by parameter.
            timeout_s: an async function is stopped after so long; any other takes the time that it takes.

        Raises:
            ToolError: there is only a schema, or the function is async and this thread runs an event loop already.
        """
        value = self._guarded(lambda: self(**values))
        if not isinstance(value, ToolResult) and inspect.isawaitable(value):
            _check_no_loop(value, self.name)
            value = asyncio.run(self._awaited(value, timeout_s))
        return value if isinstance(value, ToolResult) else self._guarded(lambda: ToolResult(text=_text(value)))

    async def ainvoke(self, values: Mapping[str, Any], *, timeout_s: float | None = None) -> ToolResult:
        """Like `invoke`; an async function is awaited, any other runs in this thread.

        Raises:
            ToolError: there is only a schema.
        """
        value = self._guarded(lambda: self(**values))
        if not isinstance(value, ToolResult) and inspect.isawaitable(value):
            value = await self._awaited(value, timeout_s)
        return value if isinstance(value, ToolResult) else self._guarded(lambda: ToolResult(text=_text(value)))

    def call(self, arguments: str) -> str:
        """Check the arguments and run the function; the result for the model, or what went wrong.

        Raises:
            ToolError: see `invoke`.
        """
        try:
            values = self.read(arguments)
        except ToolError as error:
            return refusal(str(error)).text
        return self.invoke(values).text

    async def acall(self, arguments: str) -> str:
        """Like `call`, for async functions.

        Raises:
            ToolError: there is only a schema.
        """
        try:
            values = self.read(arguments)
        except ToolError as error:
            return refusal(str(error)).text
        return (await self.ainvoke(values)).text

    def _guarded(self, run: Callable[[], Any]) -> Any:
        """The border to the game's code: whatever it raises, the conversation goes on."""
        if self.function is None:
            return run()
        try:
            return run()
        except ToolError as error:
            return _failed(error)
        except Exception as error:
            _logger.exception("The function %s failed.", self.name)
            return _failed(error)

    async def _awaited(self, value: Awaitable[Any], timeout_s: float | None) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await value
        except ToolError as error:
            return _failed(error)
        except Exception as error:
            _logger.exception("The function %s failed.", self.name)
            return _failed(error)


@overload
def tool(function: Callable[..., Any], /, *, name: str = ..., description: str = ...) -> FunctionTool: ...


@overload
def tool(*, name: str = ..., description: str = ...) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(
    function: Callable[..., Any] | None = None, /, *, name: str = "", description: str = ""
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a typed function a tool; a decorator, with options or without.

    The schema comes from the signature; descriptions from the docstring (Google style: `Args:`), or from
    `Annotated[int, Field(ge=1, description="...")]`.

    Args:
        function: each of its parameters has a type; a bound method will do.
        name: what the model shall call it, if not by its own name.
        description: what it does, if not what the docstring begins with.

    Raises:
        ToolError: the function cannot be described.
    """
    if function is None:
        return functools.partial(_described, name=name, description=description)
    return _described(function, name=name, description=description)


def refusal(reason: str, *, status: ToolStatus = "refused", error: Exception | None = None) -> ToolResult:
    """What the model is told where nothing came about: `{"ok": false, "reason": ...}`, as it was trained on."""
    short = " ".join(reason.split())
    short = short if len(short) <= _MAX_REASON else f"{short[:_MAX_REASON]} ..."
    return ToolResult(text=_text({"ok": False, "reason": short}), status=status, error=error)


def _failed(error: Exception) -> ToolResult:
    # str() of a KeyError is its key's repr.
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    unsaid = "It took too long." if isinstance(error, TimeoutError) else type(error).__name__
    return refusal(message.strip() or unsaid, status="failed", error=error)


def load_tools(spec: str) -> tuple[FunctionTool, ...]:
    """Load tools by name.

    Args:
        spec: `FILE.json` with OpenAI function schemas, whose calls are shown and not run; or `module:name` or
            `FILE.py:name`, where the name is that of a function, a tool, or a list of them.

    Raises:
        ToolError: there is no such thing, or it is no tool.
    """
    place, _, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise ToolError(f"{spec}: say which function or list of functions in it, as {spec}:NAME.")
    is_file = not place or spec.endswith(".json")
    found = _read_schemas(Path(spec)) if is_file else _from_module(place, name)
    names = [one.name for one in found]
    for one in names:
        if names.count(one) > 1:
            raise ToolError(f"{spec}: the function {one!r} comes twice. Rename one.")
    return found


def _described(function: Callable[..., Any], *, name: str, description: str) -> FunctionTool:
    name = name or getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise ToolError(
            f"A function's name must be 1 to 64 letters, digits, _ or -, got {name!r}. Give it one: tool(name=...)."
        )
    signature = read_signature(name, function)
    summary, notes = read_docstring(inspect.getdoc(function) or "")
    arguments = arguments_model(name, signature, notes)
    description = description or summary
    head = {"name": name, "description": description} if description else {"name": name}
    return FunctionTool(
        name=name,
        description=description,
        schema={"type": "function", "function": {**head, "parameters": parameters_schema(name, arguments)}},
        function=function,
        arguments=arguments,
    )


def _check_no_loop(value: Awaitable[Any], name: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if inspect.iscoroutine(value):
        value.close()
    raise ToolError(f"{name} is async and this thread runs an event loop: await the asynchronous twin of this call.")


def _text(value: Any) -> str:
    """A result for the model: text as it is, nothing as `{"ok": true}`, all else as JSON.

    Raises:
        PydanticSerializationError: it has no JSON form.
    """
    if isinstance(value, str):
        return value
    return to_json({"ok": True} if value is None else value).decode()


def _faults(error: ValidationError) -> str:
    """What is wrong with the arguments, in one line."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_FAULTS]:
        where = ".".join(map(str, fault["loc"]))
        faults.append(f"{where}: {fault['msg']}" if where else fault["msg"])
    return "; ".join(faults)


def _read_object(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise ToolError(f"The arguments are no valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ToolError("The arguments must be a JSON object.")
    return value


def _read_schemas(path: Path) -> tuple[FunctionTool, ...]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ToolError(
            f"{path} cannot be read: {why}. Give FILE.json, module:function or FILE.py:function."
        ) from error
    if len(content) > _MAX_BYTES:
        raise ToolError(f"{path} is larger than 1 MiB; a model cannot read so many functions.")
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{path} is no valid JSON: {error}. Mend it there.") from error
    if isinstance(value, dict):
        value = value.get("tools", [value])
    if not isinstance(value, list) or not value:
        raise ToolError(f"{path} must hold a list of function schemas [...].")
    return tuple(_declared(one, f"{path}: entry {number}") for number, one in enumerate(value))


def _declared(schema: Any, source: str) -> FunctionTool:
    """A tool without a function."""
    if not isinstance(schema, dict):
        raise ToolError(f"{source} must be a function's schema: an object.")
    try:
        function = tool_function(schema)
    except PromptError as error:
        raise ToolError(f"{source}: {error}") from error
    name, description = function["name"], function.get("description") or ""
    if not _NAME.fullmatch(name) or not isinstance(description, str):
        raise ToolError(f"{source}: expected a name of 1 to 64 letters, digits, _ or -, and a description of text.")
    if not isinstance(function.get("parameters", {}), dict):
        raise ToolError(f'{source}: "parameters" must be a JSON schema {{...}}.')
    return FunctionTool(name=name, description=description, schema={"type": "function", "function": dict(function)})


def _from_module(place: str, name: str) -> tuple[FunctionTool, ...]:
    module = _import_file(Path(place)) if place.endswith(".py") else _import(place)
    value = module
    for part in name.split("."):
        value = getattr(value, part, None)
    many = value if isinstance(value, list | tuple) else [value]
    if not many or not all(callable(one) for one in many):
        raise ToolError(f"{place} has no function and no list of functions {name!r}.")
    return tuple(one if isinstance(one, FunctionTool) else tool(one) for one in many)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError, TypeError) as error:
        raise ToolError(
            f"The module {name!r} cannot be imported: {error}. Give its dotted name, or FILE.py."
        ) from error


def _import_file(path: Path) -> Any:
    name = f"tools_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ToolError(f"There is no Python file {path}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
