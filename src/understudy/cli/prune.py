"""`understudy prune MODEL OUTPUT`: a smaller model, cut from a larger one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.model.checkpoint import LoadedModel
    from understudy.model.config import NemotronConfig
    from understudy.pruning.importance import Importance
    from understudy.pruning.tensors import LazyTensors
    from understudy.pruning.vocabulary import TrimmedVocabulary
    from understudy.pruning.width import WidthTarget

__all__ = ["prune"]

_SAMPLE_TOKENS = 512
_BATCH_ROWS = 4
_SEED = 0
_VOCABULARY_MULTIPLE = 64


def prune(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder or GGUF file.")],
    output: Annotated[Path, typer.Argument(help="The Hugging Face folder to write.")],
    calibration: Annotated[
        list[Path] | None, typer.Option(help="Text to watch the model read: .txt, .md or .jsonl; repeatable.")
    ] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, help="Embedding channels that stay.")] = None,
    intermediate_size: Annotated[int | None, typer.Option(min=1, help="MLP neurons that stay, of each layer.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Query heads that stay; the KV heads all do.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers that stay.")] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Text (as for --calibration) whose tokens are all that stay.")
    ] = None,
    importance: Annotated[
        Path | None, typer.Option(help="Importance file: read where it exists, else written for the next time.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help=f"Calibration samples, {_SAMPLE_TOKENS} tokens each.")] = 256,
) -> None:
    """Cut a model to the given sizes, the least important units first; distil it afterwards."""
    try:
        from understudy.model.checkpoint import load_model
        from understudy.pruning.tensors import stored_tensors
        from understudy.pruning.vocabulary import prune_vocabulary
        from understudy.pruning.width import WidthTarget
        from understudy.training.folder import write_folder
    except ImportError as error:
        raise RecipeError(
            f"Pruning needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    from rich.console import Console

    console = Console(stderr=True)
    files = load_model(model)
    target = WidthTarget(hidden_size=hidden_size, intermediate_size=intermediate_size, num_attention_heads=heads)
    target.apply(files.config)
    if layers and layers > files.config.num_hidden_layers:
        raise RecipeError(f"--layers {layers} is more than the model has ({files.config.num_hidden_layers}).")
    tensors, config, tokenizer = stored_tensors(files), files.config, files.tokenizer
    made: dict[str, Any] = {"source": files.path.name, "source_config": files.config.to_hf()}
    if vocabulary is not None:
        trimmed = _trim(files, vocabulary, console)
        tensors, config, tokenizer = prune_vocabulary(tensors, trimmed), trimmed.config, trimmed.tokenizer
        made["vocabulary"] = {"text": vocabulary.name, "kept": tokenizer.vocab_size, "of": files.config.vocab_size}
    if any(size is not None for size in (hidden_size, intermediate_size, heads, layers)):
        scores = _importance(files, calibration or [], importance, samples, console)
        tensors, config, kept = _cut(tensors, config, scores, target, layers or config.num_hidden_layers)
        made |= {"calibration": scores.calibration, "samples": scores.num_samples, "tokens": scores.num_tokens}
        made |= {"aggregation": "l2 over samples, mean over tokens", "kept_layers": kept, "merge_heads": True}
    elif vocabulary is None:
        raise RecipeError("Nothing to prune; name a size (--hidden-size, --layers, ...) or a --vocabulary.")
    with console.status(f"writing {output}"):
        metadata = {"understudy.prune": json.dumps(made, sort_keys=True)}
        write_folder(output, config, tensors, tokenizer, chat_template=files.chat_template, metadata=metadata)
    console.log(
        f"wrote {output}: {config.num_parameters / 1e6:,.1f}M of {files.config.num_parameters / 1e6:,.1f}M parameters"
    )


def _cut(
    tensors: "LazyTensors", config: "NemotronConfig", scores: "Importance", target: "WidthTarget", layers: int
) -> "tuple[LazyTensors, NemotronConfig, list[int]]":
    from understudy.pruning.depth import choose_layers, prune_depth
    from understudy.pruning.width import order_by_importance, prune_width

    kept = choose_layers(scores.layers, keep=layers)
    tensors, smaller = prune_width(tensors, config, order_by_importance(scores, config), target)
    tensors, smaller = prune_depth(tensors, smaller, kept)
    return tensors, smaller, kept


def _trim(files: "LoadedModel", path: Path, console: "Console") -> "TrimmedVocabulary":
    from understudy.pruning.vocabulary import check_encodings, trim_vocabulary
    from understudy.training.calibration import encode_documents, read_documents

    documents = read_documents([path])
    texts = [document for document in documents if isinstance(document, str)]
    with console.status("trimming the vocabulary"):
        before = encode_documents(documents, files.tokenizer, eos=files.config.eos_token_id)
        trimmed = trim_vocabulary(
            files.tokenizer, files.config, texts=texts, streams=[before], multiple_of=_VOCABULARY_MULTIPLE
        )
        after = encode_documents(documents, trimmed.tokenizer, eos=trimmed.config.eos_token_id)
        check_encodings(trimmed, before, after)
    console.log(
        f"vocabulary: {trimmed.num_seen:,} tokens are used, {trimmed.num_closed:,} more are needed, "
        f"{trimmed.config.vocab_size:,} of {files.config.vocab_size:,} stay; "
        f"{path.name} encodes to the same {len(before):,} tokens"
    )
    return trimmed


def _importance(
    files: "LoadedModel", calibration: list[Path], path: Path | None, samples: int, console: "Console"
) -> "Importance":
    """Read importance, or measure it, with a bar, and keep it where the user wants it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from understudy.pruning.importance import load_importance, measure_importance
    from understudy.training.calibration import draw_batches, encode_documents, read_documents

    if path is not None and path.exists():
        return load_importance(path, files)
    if not calibration:
        raise RecipeError("Pruning watches the model read; name text with --calibration FILE, or an --importance file.")
    ids = encode_documents(read_documents(calibration), files.tokenizer, eos=files.config.eos_token_id)
    length = min(_SAMPLE_TOKENS, files.config.max_position_embeddings)
    batches = draw_batches(ids, samples=samples, length=length, rows=_BATCH_ROWS, seed=_SEED)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("importance", total=None)
        measured = measure_importance(
            files, batches, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    if path is not None:
        measured.save(path)
    return measured
