"""`understudy doctor`: what runs where, and why."""

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from understudy.errors import EngineError

__all__ = ["doctor"]

_PACKAGES = ("numpy", "tokenizers", "jinja2", "fastapi", "uvicorn", "wgpu", "torch")
_MIB = 1 << 20


def doctor(
    model: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder; default: Harrow.")] = None,
    backend: Annotated[str, typer.Option(help="What computes: auto, cpu, reference or wgpu[:adapter].")] = "auto",
    gpu_memory: Annotated[str | None, typer.Option(help="Cap of what wgpu takes of the GPU, e.g. 2GiB.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    census: Annotated[bool, typer.Option(help="Count the MLP's zero neurons, layer by layer.")] = False,
) -> None:
    """Tell what runs where and why: model, backend, memory, speed, versions."""
    found = _examine(model, backend, _limits(gpu_memory), census=census)
    if as_json:
        import json

        typer.echo(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for section, rows in found.items():
        table.add_row(f"[bold]{section}[/bold]", "")
        for name, value in rows.items():
            table.add_row(f"  {name.replace('_', ' ')}", str(value))
    Console(highlight=False).print(table)


def _examine(path: Path | None, backend: str, gpu: Any, *, census: bool) -> dict[str, dict[str, Any]]:
    from understudy import __version__
    from understudy.kernels.native import kernel_names
    from understudy.model.native_backend import why_not_native
    from understudy.npc.model import Model

    began = time.perf_counter()
    with Model.load(path, backend=backend, gpu=gpu) as model:
        load_s = time.perf_counter() - began
        speed = _measure(model)
        config, memory = model.files.config, model.backend.memory()
        context = config.max_position_embeddings
        return {
            "model": {
                "file": str(model.files.path),
                "shape": f"nemotron, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
                f"{config.vocab_size} tokens",
                "parameters": f"{config.num_parameters / 1e6:.1f} M",
                "context": f"{context} tokens",
                "chat_template": "its own" if model.files.chat_template else "built in",
            },
            "backend": {
                "chosen": model.backend.name,
                "why": _why(backend, why_not_native(config), model.backend.name),
                "instruction_sets": ", ".join(kernel_names()) or "none compiled",
                "load": f"{load_s:.2f} s",
                **speed,
            },
            "memory": {
                "weights": f"{memory.weight_bytes / _MIB:.0f} MiB",
                "memory_mapped": f"{memory.mapped_bytes / _MIB:.0f} MiB",
                "KV cache": f"{memory.cache_bytes_per_token / 1024:.1f} KiB a token, "
                f"{memory.cache_bytes_per_token * context / _MIB:.0f} MiB at {context} tokens",
            },
            "gpu": _gpus(backend.partition(":")[2]),
            **({"zero_neurons": _census(model)} if census else {}),
            "machine": {
                "system": f"{platform.system()} {platform.machine()}",
                "cores": os.cpu_count(),
                "python": sys.version.split()[0],
            },
            "versions": {"understudy": __version__, **{name: _version(name) for name in _PACKAGES}},
        }


def _limits(memory: str | None) -> Any:
    from understudy.model.gpu_limits import GpuLimits
    from understudy.quantization.plan import parse_bytes

    return GpuLimits(memory_bytes=None if memory is None else parse_bytes(memory))


def _why(asked: str, obstacle: str | None, chosen: str) -> str:
    if asked.startswith("wgpu") and not chosen.startswith("wgpu"):
        return "no GPU can be used (see below)"
    if asked != "auto":
        return "asked for"
    return obstacle or "compiled kernels, the fastest here"


def _gpus(wanted: str) -> dict[str, str]:
    """The adapters, what each can do, and which one --backend wgpu takes."""
    from understudy.kernels.gpu_probe import survey

    findings, obstacle = survey(wanted)
    rows = {}
    for number, finding in enumerate(findings, 1):
        adapter = finding.adapter
        rows[f"adapter_{number}"] = (
            f"{adapter}, {adapter.kind}, {adapter.driver}; {', '.join(adapter.features) or 'no optional features'}; "
            f"{adapter.max_binding_bytes / _MIB:.0f} MiB a binding, {adapter.max_buffer_bytes / _MIB:.0f} MiB a buffer"
        )
        if finding.why and not finding.problem:
            rows["--backend wgpu"] = f"{adapter}: {finding.why}; its {finding.variant} kernels compute right"
    return {**rows, **({"--backend wgpu": obstacle} if obstacle else {})}


def _talk() -> Any:
    from understudy.prompt import Conversation, Message

    return Conversation(
        messages=(
            Message(role="system", content="You are an innkeeper. " + "You keep a warm house and a good table. " * 12),
            Message(role="user", content="Good evening!"),
        )
    )


def _census(model: Any) -> dict[str, str]:
    from understudy.model.native_backend import CpuBackend

    if not isinstance(model.backend, CpuBackend):
        raise EngineError("--census needs the compiled kernels: --backend cpu.")
    shares = model.backend.zero_shares(model.encode(_talk()))
    rows = {f"layer_{number}": f"{share:.1%}" for number, share in enumerate(shares)}
    return {"all_layers": f"{sum(shares) / len(shares):.1%}", **rows}


def _measure(model: Any) -> dict[str, str]:
    from understudy.engine import SamplingParams

    began = time.perf_counter()
    generation = model.generate(_talk(), sampling=SamplingParams(temperature=1.0, seed=0), max_tokens=32)
    first = 0.0
    for _ in generation:
        first = first or time.perf_counter() - began
    total = time.perf_counter() - began
    usage = generation.usage
    rate = (usage.completion_tokens - 1) / (total - first) if total > first and usage.completion_tokens > 1 else 0.0
    return {
        "first_token": f"{first * 1000:.0f} ms after a prompt of {usage.prompt_tokens} tokens",
        "decode": f"{rate:.0f} tokens/s",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed (only needed to train)" if name == "torch" else "not installed"
