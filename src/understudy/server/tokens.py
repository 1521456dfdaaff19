"""`POST /tokenize` and `/detokenize`, as vLLM has them."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import Field, ValidationError

from understudy.prompt import Conversation
from understudy.server.body import read_json
from understudy.server.completions import prompt_ids
from understudy.server.conversation import read_conversation
from understudy.server.document import body_of
from understudy.server.problem import JsonResponse, Problem
from understudy.server.schema import Record, field_problem, parse_chat_request
from understudy.server.served import ServedModel, Shelf

__all__ = ["DetokenizeRequest", "TokenizeRequest", "add_tokens"]

_Body = TypeVar("_Body", bound="Record")


class TokenizeRequest(Record):
    """The body of `POST /tokenize`: a text, or messages as a chat request has them, with its tools and documents."""

    model: Annotated[str, Field(min_length=1)] | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Record):
    """The body of `POST /detokenize`."""

    model: Annotated[str, Field(min_length=1)] | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]


def add_tokens(app: FastAPI, shelf: Shelf) -> None:
    """Add the routes."""

    @app.post("/tokenize", openapi_extra=body_of(TokenizeRequest), summary="Turn a text or messages into token ids")
    async def tokenize(request: Request) -> Response:
        value = await read_json(request)
        return JsonResponse(await asyncio.to_thread(_tokenize, value, shelf))

    @app.post("/detokenize", openapi_extra=body_of(DetokenizeRequest), summary="Turn token ids into text")
    async def detokenize(request: Request) -> Response:
        value = await read_json(request)
        return JsonResponse(await asyncio.to_thread(_detokenize, value, shelf))


def _tokenize(value: Mapping[str, Any], shelf: Shelf) -> dict[str, Any]:
    body = _parse(TokenizeRequest, value)
    served = _served(body.model, shelf)
    if (body.prompt is None) == (body.messages is None):
        raise Problem(400, "Send prompt or messages, one of them.", param="prompt", code="invalid_value")
    if body.prompt is not None:
        ids = served.model.files.tokenizer.encode(body.prompt)
    else:
        ids = served.model.encode(_conversation(value, served))
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": served.max_model_len, "tokens": ids}
    if body.return_token_strs:
        answer["token_strs"] = [_shown(token_id, served) for token_id in ids]
    return answer


def _conversation(value: Mapping[str, Any], served: ServedModel) -> Conversation:
    kept = {name: value[name] for name in ("messages", "tools", "tool_choice", "documents") if name in value}
    return read_conversation(parse_chat_request({"model": served.name, **kept}))[0]


def _detokenize(value: Mapping[str, Any], shelf: Shelf) -> dict[str, str]:
    body = _parse(DetokenizeRequest, value)
    served = _served(body.model, shelf)
    ids = prompt_ids(body.tokens, served, param="tokens")
    specials = {token_id: text for text, token_id in served.model.files.tokenizer.specials.items()}
    tokenizer = served.model.files.tokenizer
    # Control tokens are shown by their names, as vLLM shows them: what comes out is for eyes.
    data = b"".join(specials[i].encode() if i in specials else tokenizer.token_bytes(i) for i in ids)
    return {"prompt": data.decode(errors="replace")}


def _shown(token_id: int, served: ServedModel) -> str:
    tokenizer = served.model.files.tokenizer
    names = (text for text, special_id in tokenizer.specials.items() if special_id == token_id)
    return next(names, None) or tokenizer.token_bytes(token_id).decode(errors="replace")


def _served(name: str | None, shelf: Shelf) -> ServedModel:
    return shelf.default if name is None else shelf.find(name)


def _parse(kind: type[_Body], value: Mapping[str, Any]) -> _Body:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise field_problem(error.errors(include_url=False)[0]) from error
