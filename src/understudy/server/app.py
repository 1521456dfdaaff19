"""The application: routes and how errors are answered."""

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from understudy import __version__
from understudy.errors import ServeError, UnderstudyError
from understudy.server.border import Border
from understudy.server.chat import answer_chat, check_model
from understudy.server.npcs import add_npcs
from understudy.server.page_files import add_page
from understudy.server.problem import JsonResponse, Problem, problem_of
from understudy.server.schema import ChatRequest
from understudy.server.served import ServedModel

__all__ = ["create_app"]

_REFERENCES = "#/components/schemas/{model}"


def create_app(model: ServedModel, *, api_key: str | None) -> FastAPI:
    """Make the ASGI application.

    Args:
        model: what answers; the caller closes it.
        api_key: what clients must send as a bearer token; None: nothing.

    Raises:
        ServeError: no client could send this key.
    """
    if api_key is not None and not (api_key and api_key.isprintable() and api_key == api_key.strip()):
        raise ServeError("The API key must be printable characters without spaces at its ends; set another key.")
    app = FastAPI(
        title="Understudy",
        version=__version__,
        redirect_slashes=False,
        redoc_url=None,
        default_response_class=JsonResponse,
    )
    app.state.api_key = api_key
    app.state.model = model
    app.add_middleware(Border, api_key=api_key)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(UnderstudyError, _answer_understudy_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    _add_chat(app, model)
    _add_models(app, model)
    _add_health(app)
    add_page(app)
    npc_schemas = add_npcs(app, model)
    schema = ChatRequest.model_json_schema(ref_template=_REFERENCES)
    described = app.openapi().setdefault("components", {}).setdefault("schemas", {})
    described |= {**schema.pop("$defs", {}), ChatRequest.__name__: schema, **npc_schemas}
    return app


def _add_chat(app: FastAPI, model: ServedModel) -> None:
    schema = {"$ref": _REFERENCES.format(model=ChatRequest.__name__)}
    described = {"required": True, "content": {"application/json": {"schema": schema}}}

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": described}, summary="Answer a conversation")
    async def chat_completions(request: Request) -> Response:
        return await answer_chat(request, model)


def _add_models(app: FastAPI, model: ServedModel) -> None:
    @app.get("/v1/models", summary="List the model")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.to_json()]}

    @app.get("/v1/models/{name:path}", summary="Describe the model")
    async def model_by_name(name: str) -> dict[str, Any]:
        check_model(model, name)
        return model.to_json(name=name)


def _add_health(app: FastAPI) -> None:
    @app.get("/v1/health/live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"object": "health.response", "message": "Service is live."}

    @app.get("/v1/health/ready", summary="Whether the model is loaded")
    async def ready() -> dict[str, str]:
        return {"object": "health.response", "message": "Service is ready."}


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _answer_understudy_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, UnderstudyError)
    return problem_of(error).response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.scope['path']}"
    if error.status_code == 404:
        return Problem(404, f"There is nothing at {where}; the API is below /v1.", code="unknown_url").response()
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{where} is not supported; use {allowed or 'another method'}."
        return Problem(405, message, code="method_not_supported", headers=error.headers).response()
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return Problem(error.status_code, f"{error.detail}.", type=kind, headers=error.headers).response()
