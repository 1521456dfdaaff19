"""`understudy serve`: the OpenAI-compatible endpoint."""

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["serve"]


def serve(
    model: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder; default: Harrow.")] = None,
    backend: Annotated[str, typer.Option(help="What computes: auto, cpu, reference or wgpu[:adapter].")] = "auto",
    gpu_memory: Annotated[str | None, typer.Option(help="Cap of what wgpu takes of the GPU, e.g. 2GiB.")] = None,
    name: Annotated[str | None, typer.Option(help="Model name that clients ask for.")] = None,
    host: Annotated[str, typer.Option(help="Address; another than loopback needs UNDERSTUDY_API_KEY.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0: any free one.")] = 8000,
) -> None:
    """Serve the model over HTTP as OpenAI's API; clients' key: UNDERSTUDY_API_KEY."""
    from understudy.quantization.plan import parse_bytes
    from understudy.server import create_app, load_served_model, run_server

    key = os.environ.get("UNDERSTUDY_API_KEY") or None
    gpu_bytes = None if gpu_memory is None else parse_bytes(gpu_memory)
    served = load_served_model(model, name=name, backend=backend, gpu_bytes=gpu_bytes)
    try:
        run_server(
            create_app(served, api_key=key),
            host,
            port,
            ready=lambda url: typer.echo(f"{served.name} answers at {url}/v1 ({'key asked' if key else 'no key'})"),
        )
    finally:
        served.engine.close()
