"""Whether the server is well, and what it serves: NIM's routes, and llama.cpp's where they map."""

from typing import Any

from fastapi import FastAPI, Response

from understudy import __version__
from understudy.server.problem import JsonResponse
from understudy.server.served import ServedModel, Shelf
from understudy.server.traffic import Traffic

__all__ = ["add_about"]

_LIST: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"schema": {"type": "array"}}}}}
_LICENSE_URL = "https://www.apache.org/licenses/LICENSE-2.0"


def add_about(app: FastAPI, shelf: Shelf, traffic: Traffic) -> None:
    """Add the routes."""
    _add_health(app, shelf, traffic)
    _add_facts(app, shelf)
    _add_llama(app, shelf)


def _add_health(app: FastAPI, shelf: Shelf, traffic: Traffic) -> None:
    @app.get("/v1/health/live", summary="Whether the process runs")
    async def live() -> dict[str, str]:
        return {"object": "health.response", "message": "Service is live."}

    @app.get("/v1/health/ready", summary="Whether all models are loaded, and requests taken")
    async def ready() -> Response:
        is_ready = shelf.is_ready and not traffic.is_draining
        message = "Service is ready." if is_ready else "Service is not ready."
        return JsonResponse({"object": "health.response", "message": message}, status_code=200 if is_ready else 503)

    @app.get("/health", summary="The same, where llama.cpp and vLLM have it")
    async def health() -> Response:
        if shelf.is_ready and not traffic.is_draining:
            return JsonResponse({"status": "ok"})
        what = "The server is about to end" if traffic.is_draining else "Loading model"
        error = {"message": what, "type": "unavailable_error", "param": None, "code": "503"}
        return JsonResponse({"error": error}, status_code=503)


def _add_facts(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/v1/version", summary="The package's version and the API's")
    async def version() -> dict[str, str]:
        return {"release": __version__, "api": "1.0.0"}

    @app.get("/v1/metadata", summary="What is served")
    async def metadata() -> dict[str, Any]:
        return {
            "version": __version__,
            "modelInfo": [{"modelUrl": model.name, "shortName": model.name} for model in shelf.models],
            "assetInfo": [],
            "licenseInfo": _license(),
            "repository_override": "",
        }

    @app.get("/v1/license", summary="The server's licence; a model's own comes with it")
    async def license_() -> dict[str, str]:
        return _license()

    @app.get("/v1/manifest", summary="The models' shapes and what runs them")
    async def manifest() -> dict[str, Any]:
        return {"object": "manifest", "models": [_shape(model) for model in shelf.models]}


def _license() -> dict[str, str]:
    return {"name": "Apache License 2.0", "type": "url", "url": _LICENSE_URL}


def _shape(served: ServedModel) -> dict[str, Any]:
    config, facts = served.model.files.config, served.engine.facts
    return {
        "name": served.name,
        "file": served.model.files.path.name,
        "backend": facts.backend,
        "parameters": config.num_parameters,
        "context_tokens": config.max_position_embeddings,
        "vocabulary": config.vocab_size,
        "weight_bytes": facts.memory.weight_bytes,
        "mapped_bytes": facts.memory.mapped_bytes,
        "cache_bytes_per_token": facts.memory.cache_bytes_per_token,
    }


def _add_llama(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/props", summary="The first model's settings, where llama.cpp has them")
    async def props() -> dict[str, Any]:
        model, sampling = shelf.default.model, shelf.default.model.default_sampling
        settings = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return {
            "default_generation_settings": {"n_ctx": shelf.default.max_model_len, "params": settings},
            "total_slots": model.engine.options.max_running,
            "model_path": model.files.path.name,
            "model_alias": shelf.default.name,
            "chat_template": model.files.chat_template or "",
            "build_info": f"understudy {__version__}",
        }

    @app.get("/slots", summary="The first model's places for answers, where llama.cpp has them", responses=_LIST)
    async def slots() -> list[dict[str, Any]]:
        engine = shelf.default.engine
        num_running, length = engine.stats().num_running, shelf.default.max_model_len
        places = range(max(engine.options.max_running, num_running))
        return [{"id": n, "n_ctx": length, "is_processing": n < num_running} for n in places]
