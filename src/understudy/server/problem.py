"""Errors as OpenAI's clients read them."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from understudy.errors import ContextLengthError, EngineError, RequestError, UnderstudyError

__all__ = ["JsonResponse", "Problem", "out_of_time", "problem_of"]


class JsonResponse(Response):
    """JSON in ASCII: half a surrogate pair that the model wrote as an escape stays an escape."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode; without a newline at the end, so that `curl -w` has its line to itself."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        status: HTTP status.
        message: one sentence or two, for people.
        type: OpenAI's class of error.
        param: the field at fault.
        code: for programs.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 (OpenAI's word)
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers

    def to_json(self, *, is_in_stream: bool = False) -> dict[str, Any]:
        """The body; in a stream with the `object` that LangChain's NVIDIA client looks for."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": {**error, "object": "error"} if is_in_stream else error}

    def response(self) -> Response:
        """The whole answer."""
        return JsonResponse(self.to_json(), status_code=self.status, headers=self.headers)


def out_of_time() -> Problem:
    """What a client is told whose answer had no word when its time was over."""
    return Problem(
        503,
        "The server had no time for this request before its deadline; send it again later.",
        type="server_error",
        code="deadline_exceeded",
        headers={"retry-after": "5"},
    )


def problem_of(error: UnderstudyError) -> Problem:
    """What a client is told about one of our own errors."""
    if isinstance(error, ContextLengthError):
        return Problem(400, str(error), param=error.param, code="context_length_exceeded")
    if isinstance(error, RequestError):
        return Problem(400, str(error), param=error.param, code="invalid_value")
    if isinstance(error, EngineError):
        return Problem(500, str(error), type="server_error")
    return Problem(400, str(error), param="messages", code="invalid_value")
