"""`understudy serve`: the OpenAI-compatible endpoint."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.errors import ServeError

if TYPE_CHECKING:
    from understudy.server import ServedModel, ServerOptions, Tracing

__all__ = ["serve"]


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="GGUF file, Hugging Face folder, or LoRA adapter of the one before; may be repeated.",
        ),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="What computes: auto, cpu, reference or wgpu[:adapter].")] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Cap of what wgpu takes of the GPU, e.g. 2GiB.")] = None,
    gpu_frame_ms: Annotated[
        float | None, typer.Option(min=0.1, help="Milliseconds of the GPU in a frame of 1/60 s; default: all.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(envvar="NIM_SERVED_MODEL_NAME", help="Name of the first model, where PATH has none.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address; another than 127.0.0.1 needs a key.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, envvar="NIM_SERVER_PORT", help="TCP port; 0: any free; [8000]")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="File of API keys that understudy key new wrote.")] = None,
    log: Annotated[str | None, typer.Option(help="Log lines: text, or json.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with these options and rarer ones.")] = None,
) -> None:
    """Serve models over HTTP as OpenAI's API; clients' key: UNDERSTUDY_API_KEY, or --keys."""
    from understudy.server import KeyRing, NpcStores, ServerOptions, create_app, run_server, set_up_log

    options = ServerOptions.read(config) if config else ServerOptions()
    given = {
        "models": _named(model),
        "backend": backend,
        "gpu_memory": gpu_memory,
        "gpu_frame_ms": gpu_frame_ms,
        "host": host,
        "port": port,
        "keys": keys,
        "log": log,
    }
    chosen = _from_environment(os.environ) | {word: value for word, value in given.items() if value is not None}
    options = dataclasses.replace(options, **chosen)
    ring = KeyRing.read(options.keys) if options.keys else None
    models = _models(options, name)
    tracing = _tracing(os.environ)
    given_key = os.environ.get("UNDERSTUDY_API_KEY") or None
    key = os.environ.get("UNDERSTUDY_EMBEDDER_KEY")
    with NpcStores.open(options, embedder_key=key) as stores:
        app = create_app(*models, api_key=given_key, keys=ring, options=options, stores=stores, tracing=tracing)
        names = ", ".join(served.name for served in models)
        asked = "key asked" if len(app.state.keys) else "no key"
        with set_up_log(options.log), contextlib.closing(tracing) if tracing else contextlib.nullcontext():
            run_server(app, options.host, options.port, ready=lambda url: typer.echo(f"{names} at {url}/v1 ({asked})"))


def _named(models: list[str] | None) -> dict[str, Path] | None:
    """Paths by the name that stands before them, or the file's."""
    if not models:
        return None
    named: dict[str, Path] = {}
    for text in models:
        name, separator, rest = text.partition("=")
        path = Path(rest) if separator and not Path(text).exists() else Path(text)
        name = name if separator and not Path(text).exists() else path.stem
        if name in named:
            raise ServeError(f"Two models have the name {name!r}; name them apart: --model NAME=PATH.")
        named[name] = path
    return named


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """What NVIDIA's NIM containers are told by the same variables."""
    chosen: dict[str, Any] = {}
    if path := environment.get("NIM_MODEL_PATH"):
        chosen["models"] = _named([path])
    if environment.get("NIM_JSONL_LOGGING", "").lower() in ("1", "true"):
        chosen["log"] = "json"
    if origins := environment.get("NIM_CORS_ALLOW_ORIGINS"):
        chosen["cors_origins"] = tuple(origin.strip() for origin in origins.split(","))
    mode = environment.get("NIM_SSL_MODE", "DISABLED").upper()
    if mode == "TLS":
        certificate, key = environment.get("NIM_SSL_CERTS_PATH"), environment.get("NIM_SSL_KEY_PATH")
        if not (certificate and key):
            raise ServeError("NIM_SSL_MODE=TLS needs NIM_SSL_CERTS_PATH and NIM_SSL_KEY_PATH, two PEM files.")
        chosen |= {"tls_certificate": Path(certificate), "tls_key": Path(key)}
    elif mode != "DISABLED":
        raise ServeError(f"NIM_SSL_MODE must be TLS or DISABLED, got {mode!r}; put nginx before the server for more.")
    return chosen


def _tracing(environment: Mapping[str, str]) -> "Tracing | None":
    """OpenTelemetry's spans, where the standard variables ask for them."""
    from understudy.server import Tracing, is_tracing_installed

    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    asked = next((name for name in names if environment.get(name)), None)
    if asked is None or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if not is_tracing_installed():
        typer.echo(f"No spans are sent, although {asked} is set: pip install 'understudy[tracing]'", err=True)
        return None
    return Tracing.to_collector()


def _models(options: "ServerOptions", name: str | None) -> "list[ServedModel]":
    """The models, about to be loaded."""
    from understudy.model.gpu_limits import GpuLimits
    from understudy.quantization.plan import parse_bytes
    from understudy.server import ServedModel

    memory = None if options.gpu_memory is None else parse_bytes(options.gpu_memory)
    how: dict[str, Any] = {
        "backend": options.backend,
        "gpu": GpuLimits(memory_bytes=memory, frame_ms=options.gpu_frame_ms),
    }
    models: list[ServedModel] = []
    for (own, path), adapters in _families(options.models, name):
        # Adapters share the weights of a model in their process.
        own_process = False if adapters and options.engine_process is None else options.engine_process
        base = ServedModel.at(path, name=own, own_process=own_process, **how)
        beside = [
            ServedModel.at(path, name=other, adapter=adapter, base=base, own_process=own_process, **how)
            for other, adapter in adapters
        ]
        models += [base, *beside]
    return models


_Family = tuple[tuple[str | None, Path | None], list[tuple[str, Path]]]


def _families(models: Mapping[str, Path], name: str | None) -> list[_Family]:
    """Each model, the embedded one where there is none, with the adapters that follow it; `name` is the first one's."""
    from understudy.model.lora import is_adapter

    if not models:
        return [((name, None), [])]
    families: list[_Family] = []
    for number, (given, path) in enumerate(models.items()):
        own = name if name is not None and number == 0 else given
        if not is_adapter(path):
            families.append(((own, path), []))
            continue
        if not families:
            families.append(((None, None), []))
        families[-1][1].append((own, path))
    return families
