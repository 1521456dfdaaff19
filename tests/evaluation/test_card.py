import dataclasses
from pathlib import Path

import pytest
import yaml

from understudy.errors import DataError
from understudy.evaluation.card import CardFacts, render_card, training_corpora, training_tokens, write_card
from understudy.evaluation.report import ModelFacts, Report, TaskResult
from understudy.evaluation.task import Figure
from understudy.testing import tiny_config

SETTINGS = {"lines": 3, "load_average": 0.5, "threads": None}
RECIPE = {
    "name": "harrow",
    "trained_steps": 15,
    "sources": [
        {"name": "prose", "kind": "text", "corpora": ["books", "fairytales"]},
        {"name": "talk", "kind": "dialogue", "corpora": ["everyday", "my_own_text"]},
        {"name": "never", "kind": "text", "corpora": ["books2"]},
    ],
    "stages": [
        {"name": "one", "steps": 10, "batch_tokens": 100, "mixture": {"prose": 1.0}},
        {"name": "two", "steps": 10, "batch_tokens": 200, "mixture": {"prose": 0.5, "talk": 0.5, "never": 0.0}},
    ],
}


@pytest.fixture
def little() -> Report:
    facts = ModelFacts(
        file="x.gguf", sha256="ab" * 32, parameters=10, bits_per_weight=16.0, file_bytes=20,
        config=dataclasses.asdict(tiny_config()), formats={"F16": 20},
    )  # fmt: skip
    return Report(
        name="x", model=facts, parent=None, seed=0, limit=None, versions={"understudy": "0.1"}, machine={},
        created="2026-01-02T03:04:05Z", results=(TaskResult(task="books", status="skipped", reason="no data"),),
    )  # fmt: skip


@pytest.fixture
def much(little: Report) -> Report:
    def share(name: str, value: float) -> Figure:
        return Figure(name=name, label=f"label of {name}", value=value, unit="share", count=40)

    figures = (share("npc.all", 0.25), share("npc.guard", 0.5), share("fairytaleqa.f1", 0.125))
    result = TaskResult(
        task="npc",
        status="done",
        method="By reading.",
        figures=figures,
        settings=SETTINGS,
        data={"a/b.jsonl": "cd" * 32},
    )
    model = dataclasses.replace(little.model, recipe=RECIPE)
    return dataclasses.replace(little, model=model, results=(result,))


def header(card: str) -> dict:
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_with_little_it_says_so(little: Report) -> None:
    card = render_card(little, CardFacts(name="X"))
    front = header(card)
    assert (front["license"], front["language"], front["library_name"]) == ("apache-2.0", ["en"], "understudy")
    assert not {"model-index", "datasets", "base_model", "metrics"} & front.keys()
    for words in (
        "The corpora are not recorded.",
        "The recipe is not recorded",
        "Safety was not measured",
        "| tokens seen in training | not recorded |",
        "| energy and emissions | not measured |",
        "books: no data.",
        "What texts it learned from is not recorded",
    ):
        assert words in card
    assert "old books" not in card


def test_with_much_it_says_all(much: Report) -> None:
    before = dataclasses.replace(much, name="teacher")
    facts = CardFacts(
        name="Harrow: 4", author="us", base_model="someone/big", hours=12.5, hardware="one CPU", stages=(before,),
        description="A model.", languages=("en", "de"),
    )  # fmt: skip
    card = render_card(much, facts)
    front = header(card)
    assert front["base_model"] == "someone/big"
    assert front["datasets"] == ["books", "fairytales", "everyday", "my_own_text"]
    (index,) = front["model-index"]
    assert index["name"] == "Harrow: 4"
    values = {row["metrics"][0]["name"]: row["metrics"][0]["value"] for row in index["results"]}
    assert values == {"label of npc.all": 0.25, "label of fairytaleqa.f1": 0.125}
    for words in (
        "# Harrow: 4\n\nA model.",
        "| Standard Ebooks (138 books) (`books`) | CC0-1.0 | 138 | 14,163,986 |",
        "| FairytaleQA (train) (`fairytales`) | Apache-2.0 |",
        "| `everyday`: hand-written everyday dialogues | CC0-1.0 |",
        "| `my_own_text` | not recorded |",
        "- **teacher**: 10 parameters",
        '"trained_steps": 15',
        "50.0 % of 40 lines of tricks, insults and danger",
        "| tokens seen in training | 2,000 in the steps of the recipe above; what came before is not recorded |",
        "| hours of computing | 12.5 |",
        "- npc: By reading. Here: lines 3, load average 0.5.",
        "| figure | teacher | x |",
        f"`a/b.jsonl`: SHA-256 `{'cd' * 32}`",
        "old books",
        "en, de",
        "understudy serve --model x.gguf",
    ):
        assert words in card
    assert "| tokens seen in training | 7 |" in render_card(much, dataclasses.replace(facts, tokens=7))
    assert "books2" not in card.split("## How it was made")[0]
    assert card.index("## Training data") < card.index("## Evaluation") < card.index("## Compute")


def test_a_recipe_tells_corpora_and_tokens() -> None:
    assert training_corpora(RECIPE) == ("books", "fairytales", "everyday", "my_own_text")
    assert training_tokens(RECIPE) == 10 * 100 + 5 * 200
    assert training_tokens({**RECIPE, "trained_steps": None}) == 3000
    assert training_tokens({"name": "x"}) is None
    assert training_corpora({"source": [{"name": "a", "corpora": ["books"]}, {"name": "b"}]}) == ("books",)


def test_a_card_is_written_whole(little: Report, tmp_path: Path) -> None:
    write_card(tmp_path / "new" / "README.md", little, CardFacts(name="X"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["README.md"]
    with pytest.raises(DataError, match="a name of one line"):
        CardFacts(name=" ")
