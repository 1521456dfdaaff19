"""The application's own description, `/openapi.json`: what bodies may hold, and how errors look."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

__all__ = ["body_of", "finish_document", "schemas_of"]

_REFERENCES = "#/components/schemas/{model}"
_PROBES_OF_READINESS = frozenset({"/health", "/v1/health/ready"})
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """A route's body, for `openapi_extra`."""
    schema = {"$ref": _REFERENCES.format(model=kind.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def schemas_of(kinds: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """JSON schemas of bodies by name."""
    described: dict[str, Any] = {}
    for kind in kinds:
        schema = kind.model_json_schema(ref_template=_REFERENCES)
        described |= {**schema.pop("$defs", {}), kind.__name__: schema}
    return described


def finish_document(
    app: FastAPI, schemas: dict[str, Any], *, streams: Sequence[str], open_paths: frozenset[str]
) -> None:
    """Complete the document that the framework makes of the routes.

    Args:
        app: with all its routes.
        schemas: of the bodies, by name.
        streams: paths of POST routes that answer with events, too.
        open_paths: those that need no key.
    """
    document = app.openapi()
    components = document.setdefault("components", {})
    described = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # the framework's own, which nobody gets to see here
        described.pop(unused, None)
    described |= {**schemas, "Error": _ERROR}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    error = {"application/json": {"schema": {"$ref": _REFERENCES.format(model="Error")}}}
    for path, routes in document["paths"].items():
        for route in routes.values():
            route["responses"].pop("422", None)
            for response in route["responses"].values():
                content = response.get("content", {}).get("application/json", {})
                if content.get("schema") == {
                    "type": "string"
                }:  # the framework's guess for routes that answer themselves
                    content["schema"] = {"type": "object"}
            route["responses"]["default"] = {"description": "An error", "content": error}
            if path not in open_paths:
                route["security"] = [{"key": []}, {}]
            if path in streams:
                content = route["responses"]["200"].setdefault("content", {})
                content["text/event-stream"] = {"schema": {"type": "string"}}
    for path in _PROBES_OF_READINESS & document["paths"].keys():
        described_as = {"application/json": {"schema": {"type": "object"}}}
        document["paths"][path]["get"]["responses"]["503"] = {"description": "Not ready", "content": described_as}
