"""`understudy quantize MODEL OUTPUT`: a smaller file of a model, and the proof of the memory it takes."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from understudy.errors import RecipeError

if TYPE_CHECKING:
    from understudy.model.checkpoint import LoadedModel
    from understudy.model.config import NemotronConfig
    from understudy.quantization.calibration import CalibrationOptions, Importance
    from understudy.quantization.plan import Plan
    from understudy.quantization.writer import QuantizedFile

__all__ = ["quantize"]

_LARGE_PARAMETERS = 1_000_000_000


def quantize(
    model: Annotated[Path, typer.Argument(help="A 16- or 32-bit model: Hugging Face folder or GGUF file.")],
    output: Annotated[Path, typer.Argument(help="The GGUF file to write; w4g128 and nvigi: a folder.")],
    to: Annotated[str | None, typer.Option(help="q4 (default), q4xs, q6, q8, q4_0, w4g128 (vLLM) or nvigi.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory of the running model, e.g. 2.0GB: chooses formats, or checks --to.")
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of keys and values that the memory counts.")] = 4096,
    calibration: Annotated[
        str, typer.Option(help="Texts that tell which inputs count: lookup, a source, a .jsonl file, or none.")
    ] = "lookup",
    data: Annotated[Path | None, typer.Option(help="Folder of the corpora, for a named source.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Rows of calibration text, 256 tokens each; default: 128, from a billion weights 16."),
    ] = None,
    feedback: Annotated[
        bool | None,
        typer.Option(help="Let columns make good what others lose by rounding; default: below a billion weights."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Quantize a model; run it again to go on after a stop."""
    try:
        import torch

        from understudy.model.checkpoint import load_model
        from understudy.quantization.calibration import CalibrationOptions, model_hash
        from understudy.quantization.plan import parse_bytes
    except ImportError as error:
        raise RecipeError(
            f"Quantizing needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    if feedback and calibration == "none":
        raise RecipeError("--feedback needs calibration texts; leave --calibration none out, or take --no-feedback.")
    if threads:
        torch.set_num_threads(threads)
    files = load_model(model)
    is_large = files.config.num_parameters >= _LARGE_PARAMETERS
    rows = samples or (16 if is_large else 128)
    job = _Job(
        files=files,
        source_hash=model_hash(files),
        texts=None if calibration == "none" else CalibrationOptions(source=calibration, data=data, samples=rows),
        store=output.with_name(f"{model.resolve().stem}.calibration.safetensors"),
        is_fed_back=not is_large if feedback is None else feedback,
        to=to,
        budget=parse_bytes(memory) if memory else None,
        context=context,
        threads=threads or None,
    )
    if to == "w4g128":
        _write_folder(job, output)
    elif to == "nvigi":
        _write_nvigi(job, output)
    else:
        _write_gguf(job, output)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """What was asked for."""

    files: "LoadedModel"
    source_hash: str
    texts: "CalibrationOptions | None"
    store: Path
    is_fed_back: bool
    to: str | None
    budget: int | None
    context: int
    threads: int | None
    console: Console = dataclasses.field(default_factory=lambda: Console(stderr=True))

    def importance(self) -> "Importance | None":
        from understudy.quantization.calibration import calibrate

        if self.texts is None:
            return None
        with _bar(self.console, "calibrate: layers") as show:
            return calibrate(self.files, self.texts, self.store, source_hash=self.source_hash, progress=show)


def _write_gguf(job: _Job, output: Path) -> None:
    from understudy.quantization.calibration import calibration_batches
    from understudy.quantization.plan import choose_plan
    from understudy.quantization.writer import quantize_model

    files, importance = job.files, job.importance()
    batches = calibration_batches(files, job.texts) if job.texts and job.is_fed_back else None
    channels = importance.channels if importance else {}
    with _bar(job.console, "measure: matrices") as show:
        plan = choose_plan(
            files.config,
            files.weights,
            channels,
            to=job.to,
            budget_bytes=job.budget,
            context=job.context,
            progress=show,
        )
    texts = {} if job.texts is None else {**dataclasses.asdict(job.texts), "data": None}
    with _bar(job.console, f"{plan.name}: tensors") as show:
        result = quantize_model(
            files,
            output,
            plan,
            importance,
            feedback=batches,
            options={"to": job.to, "memory": job.budget, "context": job.context, **texts},
            source_hash=job.source_hash,
            num_threads=job.threads,
            progress=lambda state: show(state.values, state.num_values, f"{state.tensors}/{state.num_tensors}"),
        )
    job.console.print(_report(files.config, plan, result, job.context, job.budget, is_fed_back=batches is not None))


def _write_folder(job: _Job, output: Path) -> None:
    from understudy.quantization.compressed_tensors import write_compressed_tensors

    importance = job.importance()
    with _bar(job.console, "w4g128: matrices and tables") as show:
        write_compressed_tensors(
            output, job.files, strengths=importance.channels if importance else None, progress=show
        )
    job.console.log(f"wrote {output}")


def _write_nvigi(job: _Job, output: Path) -> None:
    """The vendor's own format is Q4_0."""
    from understudy.quantization.nvigi import write_nvigi

    gguf = output.with_name(f"{output.name}.gguf")
    _write_gguf(dataclasses.replace(job, to="q4_0"), gguf)
    folder = write_nvigi(output, gguf, context_size=min(job.context, job.files.config.max_position_embeddings))
    gguf.unlink()
    job.console.log(f"wrote {folder}")


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Callable[..., None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, count="")

        def show(done: int, total: int, count: str = "") -> None:
            bar.update(task, completed=done, total=total, count=count or f"{done}/{total}")

        yield show


def _report(
    config: "NemotronConfig",
    plan: "Plan",
    result: "QuantizedFile",
    context: int,
    budget: int | None,
    *,
    is_fed_back: bool,
) -> Table:
    from understudy.quantization.plan import memory_proof

    proof = memory_proof(plan, config, context=context)
    matrices = Counter(kind.name for kind in plan.kinds.values() if kind.name != "F32")
    before = f", {result.resumed} tensors from before" if result.resumed else ""
    table = Table(title=f"{result.path} ({plan.name})", show_header=False)
    table.add_row("file", _size(result.num_bytes))
    table.add_row("bits per weight", f"{result.bits_per_weight:.2f}")
    table.add_row("matrices", ", ".join(f"{count} {name}" for name, count in matrices.most_common()))
    for note in plan.notes:
        table.add_row("", note)
    table.add_row("error feedback", "yes" if is_fed_back else "no")
    table.add_row("time", f"{result.seconds:.0f} s{before}")
    table.add_section()
    table.add_row("weights in memory", _size(proof.weight_bytes))
    table.add_row(f"keys and values, {context} tokens at 8 bits", _size(proof.cache_bytes))
    table.add_row("buffers", _size(proof.buffer_bytes))
    within = f" of {_size(budget)}" if budget else ""
    table.add_row("together, beside the process itself", _size(proof.total_bytes) + within)
    table.add_row("input table, memory-mapped apart", _size(proof.table_bytes))
    return table


def _size(count: int) -> str:
    return f"{count / 1e9:.3f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
