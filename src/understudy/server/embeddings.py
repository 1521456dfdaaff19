"""`POST /v1/embeddings`: texts as the mean of the model's last hidden states."""

import asyncio
import base64
import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request, Response
from pydantic import BeforeValidator, Field, ValidationError

from understudy.server.answered import note_answered
from understudy.server.body import read_json
from understudy.server.completions import prompt_ids, read_prompts
from understudy.server.connection import client_gone, ignored_header, unless_gone
from understudy.server.document import body_of
from understudy.server.problem import JsonResponse, Problem
from understudy.server.schema import Record, Whole, field_problem
from understudy.server.served import ServedModel, Shelf

__all__ = ["EmbeddingRequest", "add_embeddings"]

_MAX_INPUTS = 256
_WITHOUT_EFFECT = frozenset({"input_type", "user"})


class EmbeddingRequest(Record):
    """The body of `POST /v1/embeddings`."""

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[
        list[str | list[int]],
        BeforeValidator(
            functools.partial(read_prompts, most=_MAX_INPUTS),
            json_schema_input_type=str | list[str] | list[int] | list[list[int]],
        ),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = None
    truncate: Literal["NONE"] | None = None


class _Turns:
    """One request at a time for each model, so that those who speak get their steps in between."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._num_waiting = 0

    async def embed(self, served: ServedModel, texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """The vectors, (B, D).

        Raises:
            Problem: 429, too many wait.
        """
        served.admit(num_others=self._num_waiting)
        self._num_waiting += 1
        is_gone = threading.Event()
        try:
            async with self._locks.setdefault(served.name, asyncio.Lock()):
                return await asyncio.to_thread(served.engine.embed, texts, is_cancelled=is_gone.is_set)
        finally:
            is_gone.set()
            self._num_waiting -= 1


def add_embeddings(app: FastAPI, shelf: Shelf) -> None:
    """Add the route."""
    turns = _Turns()

    @app.post("/v1/embeddings", openapi_extra=body_of(EmbeddingRequest), summary="Turn texts into vectors")
    async def embeddings(request: Request) -> Response:
        body = _parse(await read_json(request))
        served = shelf.find(body.model)
        _check_dimensions(body, served)
        with served.in_use():
            texts = await asyncio.to_thread(_encode, body, served)
            note_answered(request, "embeddings", body, model=served.name, num_input_tokens=sum(map(len, texts)))
            watch = asyncio.create_task(client_gone(request.receive))
            try:
                vectors = await unless_gone(turns.embed(served, texts), watch)
            finally:
                watch.cancel()
        headers = ignored_header(sorted(set(body.model_extra or {}) - _WITHOUT_EFFECT))
        return JsonResponse(_answer(body, vectors, sum(map(len, texts))), headers=headers)


def _parse(value: Mapping[str, Any]) -> EmbeddingRequest:
    try:
        return EmbeddingRequest.model_validate(value)
    except ValidationError as error:
        raise field_problem(error.errors(include_url=False)[0]) from error


def _check_dimensions(body: EmbeddingRequest, served: ServedModel) -> None:
    size = served.model.files.config.hidden_size
    if body.dimensions not in (None, size):
        raise Problem(
            400, f"dimensions must be {size} or be left out.", param="dimensions", code="unsupported_parameter"
        )


def _encode(body: EmbeddingRequest, served: ServedModel) -> list[tuple[int, ...]]:
    return [prompt_ids(text, served, param="input") for text in body.input]


def _answer(body: EmbeddingRequest, vectors: npt.NDArray[np.float32], num_tokens: int) -> dict[str, Any]:
    is_text = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if is_text else vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
