"""Tests of the look-up dialogue generator."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import understudy.data.lookup.generate as generate
from understudy.data.lookup.generate import DEFAULT_MIX, LookupGenerator
from understudy.data.lookup.names import NameMaker
from understudy.data.lookup.numbers import number_words, to_number
from understudy.data.lookup.text import Template, article, sentence_case

FOLDER = Path(generate.__file__).parent
DIALOGUES = 250
KINDS = list(DEFAULT_MIX)


def source(dialogue: dict[str, Any], before: int) -> str:
    """What the model has read before a turn."""
    parts = [dialogue["system"], *dialogue["context"]]
    parts += [turn["content"] for turn in dialogue["turns"][:before]]
    return " ".join(parts).lower()


def assistant_spots(dialogue: dict[str, Any]) -> list[int]:
    """Where the assistant speaks."""
    return [at for at, turn in enumerate(dialogue["turns"]) if turn["role"] == "assistant"]


@pytest.fixture(scope="module")
def samples() -> dict[str, list[tuple[dict[str, Any], list[str | None]]]]:
    """Some dialogues of each kind."""
    generator = LookupGenerator(7)
    return {kind: [generator.annotated(kind) for _ in range(DIALOGUES)] for kind in KINDS}


def test_same_seed_gives_same_dialogues() -> None:
    """Two generators with one seed agree; another seed differs."""
    one, two, other = (list(itertools.islice(LookupGenerator(seed), 60)) for seed in (3, 3, 4))
    assert one == two
    assert [d["turns"] for d in one] != [d["turns"] for d in other]


def test_does_not_depend_on_hash_order() -> None:
    """String hashing, which differs between processes, has no influence."""
    code = (
        "import hashlib, itertools, json\n"
        "from understudy.data.lookup.generate import LookupGenerator\n"
        "text = json.dumps(list(itertools.islice(LookupGenerator(1), 150)))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    src = str(FOLDER.parents[2])
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": src, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_every_template_renders() -> None:
    """No content file has a template that fails or leaves a brace."""
    assert LookupGenerator(0).validate() > 1000


@pytest.mark.parametrize("kind", KINDS)
def test_form(kind: str, samples: dict[str, list[tuple[dict[str, Any], list[str | None]]]]) -> None:
    """Turns alternate, texts are clean, prompts are not too long."""
    for dialogue, answers in samples[kind]:
        turns = dialogue["turns"]
        assert dialogue["kind"] in ("roleplay", "rag", "tool")
        assert turns[0]["role"] == "user" and turns[-1]["role"] == "assistant"
        assert 1 <= sum(turn["role"] == "user" for turn in turns) <= 7
        assert len(answers) == len(assistant_spots(dialogue))
        assert len(dialogue["system"].split()) < (320 if dialogue["context"] else 480)
        for turn in turns:
            text = turn["content"]
            assert text or "tool_calls" in turn
            if turn["role"] != "tool" and kind != "copy":
                assert not re.search(r"[{}]|  |\b(the|a|an) (the|a|an) ", text), text
        for text in (dialogue["system"], *dialogue["context"]):
            assert not re.search(r"[{}]|  ", text), text


@pytest.mark.parametrize("kind", KINDS)
def test_answers_come_from_the_prompt(
    kind: str, samples: dict[str, list[tuple[dict[str, Any], list[str | None]]]]
) -> None:
    """An answer holds its value, and the value was there to be read."""
    seen = 0
    for dialogue, answers in samples[kind]:
        for spot, value in zip(assistant_spots(dialogue), answers, strict=True):
            turn = dialogue["turns"][spot]
            if not value or "tool_calls" in turn:
                continue
            seen += 1
            assert value.lower() in turn["content"].lower()
            known = source(dialogue, spot)
            number = to_number(value)
            assert value.lower() in known or (number is not None and str(number) in known)
    assert seen > DIALOGUES / 3


def test_unknown_is_not_in_the_prompt() -> None:
    """What cannot be answered is about a subject or a fact that the prompt does not state."""
    generator = LookupGenerator(9)
    found = 0
    for _ in range(400):
        dialogue, answers = generator.annotated("ledger")
        for spot, value in zip(assistant_spots(dialogue), answers, strict=True):
            if value == "":
                found += 1
                question = dialogue["turns"][spot - 1]["content"].lower()
                listed = " ".join([dialogue["system"], *dialogue["context"]]).lower()
                keys = [word for word in re.findall(r"[\w'-]+", question) if word not in listed]
                assert keys, (question, listed)
    assert found > 30


def test_unstated_facts_are_not_stated() -> None:
    """The generator never draws a stated fact as an unstated one."""
    generator = LookupGenerator(2)
    persona, lore = generator.content.persona, generator.content.lore
    for _ in range(200):
        who = persona.make(2, 8)
        fact = persona.unstated(who)
        assert fact is None or fact.id not in {one.fact.id for one in who.stated}
        topics = lore.topics(3)
        text = " ".join(lore.passages(topics)).lower()
        for topic in topics:
            gone = lore.missing(topic)
            assert gone is None or gone.id not in {one.id for one, _ in topic.stated}
            stranger = lore.stranger(topic.group, topics)
            assert stranger is None or stranger.lower() not in text


def test_lore_facts_are_asked_evenly() -> None:
    """The place of a fact in its passage does not tell whether it is asked."""
    generator = LookupGenerator(12)
    early = late = 0
    for _ in range(1500):
        dialogue, answers = generator.annotated("lore")
        if len(dialogue["context"]) != 1:  # type: ignore[arg-type]
            continue
        text = dialogue["context"][0].lower()  # type: ignore[index]
        for value in answers:
            if value and text.count(value.lower()) == 1:
                half = text.index(value.lower()) * 2 < len(text)
                early, late = early + half, late + (not half)
    assert 0.75 < early / late < 1.33


TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}


def test_tool_calls_fit_their_schemas(
    samples: dict[str, list[tuple[dict[str, Any], list[str | None]]]],
) -> None:
    """Calls name an offered tool; arguments have its types and come from the player's line."""
    calls = 0
    for dialogue, _ in samples["tool"]:
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in dialogue["tools"]}
        assert 1 <= len(offered) <= 4
        for spot in assistant_spots(dialogue):
            for call in dialogue["turns"][spot].get("tool_calls", []):
                calls += 1
                check_call(offered[call["name"]], call["arguments"], dialogue["turns"][spot - 1]["content"])
                json.loads(dialogue["turns"][spot + 1]["content"])
    assert calls > DIALOGUES / 2


def check_call(schema: dict[str, Any], arguments: dict[str, Any], line: str) -> None:
    """Checks one call against its schema and the player's words."""
    assert set(schema.get("required", [])) <= set(arguments) <= set(schema["properties"])
    for name, value in arguments.items():
        check_value(schema["properties"][name], value, line)


def check_value(schema: dict[str, Any], value: object, line: str) -> None:
    """Checks the type of an argument, and that the player said it."""
    assert isinstance(value, TYPES[schema["type"]])
    assert schema["type"] == "boolean" or not isinstance(value, bool)
    if schema["type"] == "array":
        assert isinstance(value, list)
        for one in value:
            check_value(schema["items"], one, line)
    elif schema["type"] == "object":
        assert isinstance(value, dict)
        check_call(schema, value, line)
    elif "enum" in schema:
        assert value in schema["enum"]
    elif isinstance(value, str):
        assert value.lower() in line.lower()
    elif not isinstance(value, bool):
        assert str(value) in line or number_words(value) in line.lower(), (value, line)


@pytest.mark.parametrize("kind", KINDS)
def test_probe(kind: str) -> None:
    """A probe ends in the right answer."""
    generator = LookupGenerator(21)
    for _ in range(50):
        dialogue, value = generator.probe(kind)
        last = dialogue["turns"][-1]  # type: ignore[index]
        assert last["role"] == "assistant"
        said = last["content"] or json.dumps(last["tool_calls"], ensure_ascii=False)
        assert value and value.lower() in said.lower()


def test_mix() -> None:
    """Weights decide the kinds; wrong ones are refused."""
    only = LookupGenerator(1, mix={"copy": 1.0})
    assert all("-copy-" in str(only.dialogue()["id"]) for _ in range(20))
    with pytest.raises(ValueError, match="mix"):
        LookupGenerator(1, mix={"poem": 1.0})


def test_mistakes_in_content_are_named(tmp_path: Path) -> None:
    """An unknown slot or slot type is reported with the file and the entry."""
    for path in FOLDER.glob("*.json"):
        shutil.copy(path, tmp_path)
    facts = json.loads((tmp_path / "facts_persona.json").read_text(encoding="utf-8"))
    good = facts[0]["statements"][0]
    facts[0]["statements"][0] = "You like {nonsense}."
    (tmp_path / "facts_persona.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match=r"facts_persona\.json.*nonsense"):
        LookupGenerator(1, content_dir=tmp_path)
    facts[0]["statements"][0] = good
    facts[0]["slots"]["x"] = "no_such_type"
    (tmp_path / "facts_persona.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match=r"facts_persona\.json.*no_such_type"):
        LookupGenerator(1, content_dir=tmp_path)


def test_small_tools() -> None:
    """Articles, sentence case, numbers and templates."""
    assert [article(word) for word in ("oak", "unicorn", "hour", "a cat")] == [
        "an oak",
        "a unicorn",
        "an hour",
        "a cat",
    ]
    assert sentence_case("so it is.. yes. no") == "So it is. Yes. No"
    assert [to_number(text) for text in ("nine coppers", "14", "forty-two", "oak")] == [9, 14, 42, None]
    template = Template("{X} is {a_x}, {x}.", ("x",), "here")
    assert template.render({"x": "elm"}) == "Elm is an elm, elm."
    with pytest.raises(ValueError, match="here"):
        Template("{y}", ("x",), "here")


def test_many_names() -> None:
    """First names hardly repeat."""
    generator = LookupGenerator(1)
    names: NameMaker = generator.content.persona._names
    assert len({names.syllabic() for _ in range(20000)}) > 12000
