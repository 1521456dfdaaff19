"""The application: routes and how errors are answered."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.server.about import add_about
from understudy.server.border import PROBES, Border
from understudy.server.chat import answer_chat
from understudy.server.completions import CompletionRequest, answer_completion
from understudy.server.document import body_of, finish_document, schemas_of
from understudy.server.embeddings import EmbeddingRequest, add_embeddings
from understudy.server.keys import ApiKey, KeyRing
from understudy.server.metrics import Metrics, add_metrics
from understudy.server.npc_stores import NpcStores
from understudy.server.npcs import add_npcs
from understudy.server.options import ServerOptions
from understudy.server.page_files import add_page
from understudy.server.problem import JsonResponse, Problem, problem_of
from understudy.server.reload import ReloadRequest, Reloads, add_reload
from understudy.server.schema import ChatRequest
from understudy.server.served import ServedModel, Shelf
from understudy.server.tokens import DetokenizeRequest, TokenizeRequest, add_tokens
from understudy.server.tracing import Tracing
from understudy.server.traffic import Traffic

__all__ = ["create_app"]

_EXPOSED = ("retry-after", "x-ignored-fields", "x-left-out-calls", "x-request-id")
_STREAMS = ("/v1/chat/completions", "/v1/completions", "/v1/npcs/{npc_id}/say")


def create_app(
    *models: ServedModel,
    api_key: str | None = None,
    keys: KeyRing | None = None,
    options: ServerOptions | None = None,
    stores: NpcStores | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Make the ASGI application.

    Args:
        models: what answers, the first where nobody says which; the caller closes them.
        api_key: a key without limits, named "default", beside those of `keys`.
        keys: what clients must send, one of them, as a bearer token; None and no `api_key`: nothing.
        options: limits and origins; what stands there of models, address and files is the caller's business.
        stores: lore, memory and saved sessions for `/v1/npcs`; the caller closes them.
        tracing: told of each request; the caller closes it.

    Raises:
        ServeError: no client could send the key, or two models or keys have one name.
    """
    shelf, options, traffic = Shelf(models), options or ServerOptions(), Traffic()
    metrics = Metrics(shelf)
    own = [ApiKey.of(api_key, name="default", may_reload=True)] if api_key is not None else []
    ring = KeyRing(keys.keys if keys else (), own=own, path=keys.path if keys else None)
    for model in models:
        model.options = options
    app = FastAPI(
        title="Understudy",
        version=__version__,
        redirect_slashes=False,
        docs_url=None,  # its page loads scripts from elsewhere; /openapi.json is there
        redoc_url=None,
        default_response_class=JsonResponse,
    )
    app.state.shelf, app.state.keys, app.state.options, app.state.traffic = shelf, ring, options, traffic
    app.state.reloads = Reloads(shelf)
    app.add_middleware(Border, keys=ring, traffic=traffic, count=metrics.visit, tracing=tracing)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=_EXPOSED,
        )
    _add_refusals(app)
    _add_answers(app, shelf)
    _add_models(app, shelf)
    add_reload(app, app.state.reloads)
    add_embeddings(app, shelf)
    add_tokens(app, shelf)
    add_about(app, shelf, traffic)
    add_metrics(app, metrics)
    add_page(app)
    npc_schemas = add_npcs(app, shelf, stores=stores)
    bodies = (ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest, DetokenizeRequest, ReloadRequest)
    schemas = schemas_of(bodies)
    finish_document(app, {**schemas, **npc_schemas}, streams=_STREAMS, open_paths=PROBES)
    return app


def _add_refusals(app: FastAPI) -> None:
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(UnderstudyError, _answer_understudy_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)


def _add_answers(app: FastAPI, shelf: Shelf) -> None:
    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest), summary="Answer a conversation")
    async def chat_completions(request: Request) -> Response:
        return await answer_chat(request, shelf)

    @app.post("/v1/completions", openapi_extra=body_of(CompletionRequest), summary="Go on with a text or token ids")
    async def completions(request: Request) -> Response:
        return await answer_completion(request, shelf)


def _add_models(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/v1/models", summary="List the models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.to_json() for model in shelf.models]}

    @app.get("/v1/models/{name:path}", summary="Describe a model")
    async def model_by_name(name: str) -> dict[str, Any]:
        return shelf.find(name).to_json(name=name)


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _answer_understudy_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, UnderstudyError)
    return problem_of(error).response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    where = f"{request.method[:20]} {request.scope['path'][:200]}"
    if error.status_code == 404:
        return Problem(404, f"There is nothing at {where}; the API is below /v1.", code="unknown_url").response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{where} is not supported; use {allowed or 'another method'}."
        return Problem(405, message, code="method_not_supported", headers=error.headers).response()
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return Problem(error.status_code, f"{error.detail}.", type=kind, headers=error.headers).response()
