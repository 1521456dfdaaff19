"""A model card: what the model is, what it was made from, and what was measured; nothing else."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.data.catalogue import PublicSource, sources_of
from understudy.errors import DataError
from understudy.evaluation.comparison import comparison_table, report_table, show_value
from understudy.evaluation.report import ModelFacts, Report, TaskResult

__all__ = ["CardFacts", "render_card", "training_corpora", "training_tokens", "write_card"]

_UNKNOWN = "not recorded"
_OWN = {
    "worlds": "hand-written dialogues of this project's worlds",
    "worlds_as_played": "the worlds' dialogues as the chat command shows them",
    "worlds_plain": "plain questions on the worlds' cards and lore",
    "worlds_recast": "plain questions with other names and numbers",
    "worlds_calls": "dialogues with function calls, under other names",
    "worlds_idle": "dialogues beside functions that nobody needs",
    "made_calls": "generated dialogues with function calls",
    "worlds_prose": "the worlds' lore and cards as text",
    "everyday": "hand-written everyday dialogues",
}
_USES = """## Intended use, and what it is not for

- **For** characters of games and interactive stories that speak in few sentences: small talk in a persona, answers
  from lore in the prompt, calls of game functions. The game decides which cards, lore and functions it gets.
- **Not for** facts about the real world, advice of any kind (health, law, money, safety), decisions about people, or
  judging what others write. It was not made to be a general assistant.
- **Not for** acting unchecked: a function that costs a player something should be confirmed by the game.
"""
_COUNTS = """
Counts are of the whole source; a recipe may take a part of it. Dialogues that this project generates (look-ups of
random values) come beside them where the recipe names such a source. The evaluation's own data (the world cloudmere,
the held-out books, FairytaleQA's validation part) are no training source of this project."""
_RISKS = """- It states wrong things in a sure voice, above all facts that the prompt does not hold. Where it matters, a
  game should show only what its own data confirm.
- Players can lead it out of character or to coarse words; it had no adversarial training. A game for children needs a
  filter on both sides.
- It remembers nothing beyond its prompt, and was made for these languages alone: {languages}."""
_OLD_BOOKS = """- Many of its texts are old books. Their views of women and men, peoples, classes and religions are in
  the model; names, trades and manners of speech may come out as stereotypes."""
_GUARD_DATA = """- It had some training on insults, tricks, danger and talk of self-harm (the hand-written everyday
  dialogues), too little to rely on."""
_UNKNOWN_TEXTS = """- What texts it learned from is not recorded here, and so neither are their biases; ask whoever made
  the model."""
_RUN = """## How to run it

    pip install understudy
    understudy chat --model {file}
    understudy serve --model {file}

With any client of the OpenAI API, for instance Python's `openai`:

    from openai import OpenAI

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[
            {{"role": "system", "content": "You are Bram Oakley, a beekeeper. You speak in short sentences."}},
            {{"role": "user", "content": "Good morning! What do you do here?"}},
        ],
    )
    print(answer.choices[0].message.content)
"""
_METRICS = {
    "npc.all": ("accuracy", "cloudmere", "Cloudmere dialogues"),
    "calls.exact": ("exact_match", "cloudmere", "Cloudmere dialogues"),
    "fairytaleqa.exact": ("exact_match", "fairytaleqa", "FairytaleQA (validation)"),
    "fairytaleqa.f1": ("f1", "fairytaleqa", "FairytaleQA (validation)"),
    "books.bits_per_byte": ("bits_per_byte", "books_dev", "five held-out Standard Ebooks"),
    "books.perplexity": ("perplexity", "books_dev", "five held-out Standard Ebooks"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says that no report knows.

    Attributes:
        name: the model's.
        description: a paragraph for people; empty for a plain one.
        author: who made it.
        licence: Hugging Face's name of the licence, lower case.
        languages: ISO 639-1 codes.
        base_model: what it was made from, as "owner/name" on the Hub or a file's name; empty if from random weights.
        recipe: the resolved recipe, of whatever form; None takes the one inside the model's file.
        corpora: names of `data.sources` that it was trained on; empty takes the recipe's.
        tokens: seen in training; None takes what the recipe says of one run.
        hours: of computing; None if nobody counted.
        hardware: that it was trained on; empty if nobody noted it.
        stages: reports of the stages before, in their order.
    """

    name: str
    description: str = ""
    author: str = ""
    licence: str = "apache-2.0"
    languages: tuple[str, ...] = ("en",)
    base_model: str = ""
    recipe: Mapping[str, Any] | None = None
    corpora: tuple[str, ...] = ()
    tokens: int | None = None
    hours: float | None = None
    hardware: str = ""
    stages: tuple[Report, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip() or "\n" in self.name:
            raise DataError(f"A model card needs a name of one line, got {self.name!r}.")


def training_corpora(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the corpora that a recipe's mixtures read; those of all its sources where it has no mixtures."""
    sources = recipe.get("sources") or recipe.get("source") or ()
    stages = recipe.get("stages") or ()
    used = {name for stage in stages for name, share in (stage.get("mixture") or {}).items() if share}
    names = [c for s in sources if not used or s.get("name") in used for c in s.get("corpora") or ()]
    return tuple(dict.fromkeys(names))


def training_tokens(recipe: Mapping[str, Any]) -> int | None:
    """Tokens of a training recipe's steps, up to `trained_steps` if it has that; None if it does not say."""
    stages = recipe.get("stages")
    if not stages:
        return None
    left, tokens = recipe.get("trained_steps"), 0
    for stage in stages:
        steps = stage["steps"] if left is None else min(left, stage["steps"])
        tokens += steps * stage["batch_tokens"]
        left = None if left is None else left - steps
    return int(tokens)


def render_card(report: Report, facts: CardFacts) -> str:
    """The card as Markdown with Hugging Face's YAML header; what is not known is said to be not known."""
    recipe = facts.recipe or report.model.recipe
    corpora = facts.corpora or (training_corpora(recipe) if recipe else ())
    sections = (
        _header(report, facts, corpora),
        f"# {facts.name}\n\n{facts.description or _plain_description(report.model, facts)}\n",
        _details(report.model, facts),
        _USES,
        _data(corpora),
        _making(report.model, facts, recipe),
        _evaluation(report, facts),
        _risks(report, facts, corpora),
        _running(report.model),
        _compute(facts, recipe),
    )
    return "\n".join(sections)


def write_card(path: Path, report: Report, facts: CardFacts) -> None:
    """Write the card; the file appears when it is complete.

    Raises:
        DataError: the disk refuses.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(render_card(report, facts), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; make room or choose another folder.") from error


def _header(report: Report, facts: CardFacts, corpora: Sequence[str]) -> str:
    rows = ["---", f"license: {_yaml(facts.licence)}", "language:", *(f"- {_yaml(code)}" for code in facts.languages)]
    rows += ["library_name: understudy", "pipeline_tag: text-generation", "tags:"]
    tags = ["nemotron", "game", "npc", "role-play", "function-calling", "retrieval", *_format_tags(report.model)]
    rows += [f"- {_yaml(tag)}" for tag in tags]
    if facts.base_model:
        rows.append(f"base_model: {_yaml(facts.base_model)}")
    if corpora:
        rows += ["datasets:", *(f"- {_yaml(name)}" for name in corpora)]
    measured = {name: figure for name, figure in report.figures.items() if name in _METRICS}
    if measured:
        rows += ["metrics:", *(f"- {metric}" for metric in sorted({_METRICS[name][0] for name in measured}))]
        rows += ["model-index:", f"- name: {_yaml(facts.name)}", "  results:"]
        for name, figure in measured.items():
            metric, dataset, title = _METRICS[name]
            rows += ["  - task:", "      type: text-generation", "    dataset:", f"      name: {_yaml(title)}"]
            rows += [f"      type: {_yaml(dataset)}", "    metrics:", f"    - type: {metric}"]
            rows += [f"      value: {round(figure.value, 4)}", f"      name: {_yaml(figure.label)}"]
    return "\n".join([*rows, "---", ""])


def _format_tags(model: ModelFacts) -> list[str]:
    return (["gguf"] if model.file.endswith(".gguf") else ["safetensors"]) + sorted(
        name.lower() for name in model.formats
    )


def _plain_description(model: ModelFacts, facts: CardFacts) -> str:
    made = f"made from {facts.base_model}" if facts.base_model else "a language model of the Nemotron architecture"
    return (
        f"{facts.name} is {made}, with {model.parameters:,} parameters. It plays characters of games: it answers in "
        "the voice of a character card, from passages of lore in its prompt, and calls functions of the game."
    )


def _details(model: ModelFacts, facts: CardFacts) -> str:
    config = model.config
    formats = ", ".join(f"{name} {size / 1e6:,.2f} MB" for name, size in sorted(model.formats.items()))
    shape = (
        f"{config['num_hidden_layers']} layers, {config['hidden_size']} wide, {config['intermediate_size']} in the "
        f"MLP, {config['num_attention_heads']} query heads, {config['num_key_value_heads']} key and value heads, "
        f"{config['vocab_size']:,} tokens"
    )
    size = f"{model.file_bytes / 1e6:,.1f} MB, {model.bits_per_weight:.2f} bits a weight ({formats})"
    rows = (
        ("made by", facts.author or _UNKNOWN),
        ("licence", facts.licence),
        ("languages", ", ".join(facts.languages)),
        ("made from", facts.base_model or _UNKNOWN),
        ("architecture", "Nemotron: squared ReLU, LayerNorm1P, grouped-query attention, partial rotary positions"),
        ("shape", shape),
        ("context", f"{config['max_position_embeddings']:,} tokens, prompt and answer together"),
        ("parameters", f"{model.parameters:,}"),
        ("file", f"`{model.file}`, {size}"),
        ("SHA-256", f"`{model.sha256}`"),
    )
    return "\n".join(["## Model", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""])


def _data(corpora: Sequence[str]) -> str:
    rows = ["## Training data", ""]
    if not corpora:
        return "\n".join([*rows, f"The corpora are {_UNKNOWN}.", ""])
    rows += ["| what | licence | documents | words | from |", "|---|---|---|---|---|"]
    public = sources_of(corpora)
    rows += [_source_row(source, corpora) for source in public if not source.evaluation]
    known = {name for source in public for name in source.corpora}
    for name in corpora:
        if name in _OWN:
            rows.append(f"| `{name}`: {_OWN[name]} | CC0-1.0 | {_UNKNOWN} | {_UNKNOWN} | this project |")
        elif name not in known:
            rows.append(f"| `{name}` | {_UNKNOWN} | {_UNKNOWN} | {_UNKNOWN} | the recipe's own source |")
    return "\n".join([*rows, _COUNTS, ""])


def _source_row(source: PublicSource, corpora: Sequence[str]) -> str:
    documents = max((file.documents for file in source.files), default=0)
    words = max((file.words for file in source.files), default=0)
    names = ", ".join(f"`{name}`" for name in source.corpora if name in corpora)
    where = source.repository + (f" at {source.commit[:12]}" if source.commit else "")
    return f"| {source.title} ({names}) | {source.licence} | {documents:,} | {words:,} | {where} |"


def _making(model: ModelFacts, facts: CardFacts, recipe: Mapping[str, Any] | None) -> str:
    rows = ["## How it was made", ""]
    rows += [
        f"- **{stage.name}**: {stage.model.parameters:,} parameters, {stage.model.file_bytes / 1e6:,.1f} MB, "
        f"SHA-256 `{stage.model.sha256}`"
        for stage in facts.stages
    ]
    rows += [f"- **{model.file}**: this file, SHA-256 `{model.sha256}`", ""]
    if recipe is None:
        return "\n".join([*rows, f"The recipe is {_UNKNOWN}: the file does not hold one.", ""])
    text = json.dumps(recipe, indent=1, sort_keys=True, ensure_ascii=False, default=str)
    return "\n".join([*rows, "The resolved recipe:", "", "```json", text, "```", ""])


def _evaluation(report: Report, facts: CardFacts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    limit = "all items" if report.limit is None else f"at most {report.limit} items of each task"
    when = f"Measured on {report.created[:10]} with {versions}; seed {report.seed}, {limit}."
    rows = [
        "## Evaluation",
        "",
        f"{when} What is not in the table was not measured.",
        "",
        report_table(report),
        "How:",
        "",
    ]
    rows += [f"- {r.task}: {r.method}{_settings(r)}" for r in report.results if r.status == "done"]
    rows.append("")
    hashes = {name: digest for result in report.results for name, digest in result.data.items()}
    if hashes:
        rows += ["Data of the evaluation:", ""]
        rows += [f"- `{name}`: SHA-256 `{digest}`" for name, digest in sorted(hashes.items())] + [""]
    if facts.stages:
        rows += ["Stage by stage:", "", comparison_table([*facts.stages, report])]
    return "\n".join(rows)


def _settings(result: TaskResult) -> str:
    known = {key: value for key, value in result.settings.items() if value is not None}
    listed = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())
    return f" Here: {listed}." if listed else ""


def _risks(report: Report, facts: CardFacts, corpora: Sequence[str]) -> str:
    rows = ["## Bias, risks and safety", ""]
    if not corpora:
        rows.append(_UNKNOWN_TEXTS)
    if any(name.startswith("books") for name in corpora):
        rows.append(_OLD_BOOKS)
    if "everyday" in corpora:
        rows.append(_GUARD_DATA)
    rows += [_RISKS.format(languages=", ".join(facts.languages)), ""]
    guard = report.figures.get("npc.guard")
    if guard is None:
        rows.append("Safety was not measured: no guard dialogues, no benchmarks of toxicity or bias were run.")
    else:
        rows.append(
            f"Measured: {show_value(guard)} of {guard.count} lines of tricks, insults and danger pass their checks. "
            "No benchmarks of toxicity or bias were run."
        )
    return "\n".join([*rows, ""])


def _running(model: ModelFacts) -> str:
    also = "\nThe GGUF file also loads in llama.cpp and what is built on it.\n" if model.file.endswith(".gguf") else ""
    return _RUN.format(file=model.file) + also


def _compute(facts: CardFacts, recipe: Mapping[str, Any] | None) -> str:
    steps = training_tokens(recipe) if recipe else None
    seen = f"{facts.tokens:,}" if facts.tokens is not None else _UNKNOWN
    if facts.tokens is None and steps is not None:
        seen = f"{steps:,} in the steps of the recipe above; what came before is {_UNKNOWN}"
    rows = (
        ("tokens seen in training", seen),
        ("hours of computing", f"{facts.hours:,.1f}" if facts.hours is not None else _UNKNOWN),
        ("hardware", facts.hardware or _UNKNOWN),
        ("energy and emissions", "not measured"),
    )
    return "\n".join(["## Compute", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""])


def _yaml(text: str) -> str:
    """A text as a YAML scalar: JSON's quoted strings are YAML's, too."""
    return json.dumps(text, ensure_ascii=False)
