"""What the documents say can be done can be done."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from understudy.cli.app import app
from understudy.data.sources import DIALOGUE_SOURCES, EVALUATION_SOURCES, TEXT_SOURCES

MAX_README_LINES = 120
MAX_ADR_LINES = 15
MAX_TARGETS = 10


@pytest.fixture(scope="module")
def targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))


def code(text: str) -> str:
    """All that stands in code fences and back-ticks."""
    fences = re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*fences, *re.findall(r"`([^`\n]+)`", text)])


def documents(texts: dict[Path, str]) -> dict[Path, str]:
    return {name: text for name, text in texts.items() if name.suffix == ".md" and name.parts[0] != "worlds"}


def test_readme_is_short(texts: dict[Path, str]) -> None:
    assert texts[Path("README.md")].count("\n") <= MAX_README_LINES


def test_make_commands_exist(texts: dict[Path, str], targets: set[str]) -> None:
    named = {
        t for text in documents(texts).values() for t in re.findall(r"(?<!understudy )\bmake ([a-z]+)\b", code(text))
    }
    assert {"chat", "test"} <= named
    assert named - targets == set()


def test_few_targets(targets: set[str]) -> None:
    assert len(targets - {"help"}) <= MAX_TARGETS


def test_verbs_and_options_exist(texts: dict[Path, str]) -> None:
    commands = get_command(app).commands
    groups = {name: getattr(command, "commands", {}) for name, command in commands.items()}
    commands = {**commands, **{f"{name} {n}": verb for name, verbs in groups.items() for n, verb in verbs.items()}}
    wrong = []
    for name, text in documents(texts).items():
        for word, rest in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?understudy ([a-z]+)(.*)$", code(text), re.MULTILINE):
            verb = next((v for v in (f"{word} {' '.join(rest.split()[:1])}", word) if v in commands), word)
            options = {o for p in commands[verb].params for o in p.opts} if verb in commands else set()
            unknown = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - options - {"--help"}
            if verb not in commands or unknown:
                wrong.append(f"{name}: understudy {verb} {' '.join(sorted(unknown))}")
    assert wrong == []


def test_links_lead_somewhere(root: Path, texts: dict[Path, str]) -> None:
    broken = [
        f"{name}: {link}"
        for name, text in documents(texts).items()
        for link in re.findall(r"\]\(([^)#\s]+)", text)
        if "://" not in link and not (root / name.parent / link).exists()
    ]
    assert broken == []


def test_decisions_are_short_and_numbered(root: Path) -> None:
    decisions = sorted((root / "docs" / "adr").glob("*.md"))
    assert [d.name[:5] for d in decisions] == [f"{n:04}-" for n in range(1, len(decisions) + 1)]
    assert {d.name: d.read_text().count("\n") for d in decisions if d.read_text().count("\n") > MAX_ADR_LINES} == {}
    assert all(d.read_text().startswith(f"# {d.name[:4]}: ") for d in decisions)


def test_every_corpus_is_credited(texts: dict[Path, str]) -> None:
    corpora = (TEXT_SOURCES.keys() | DIALOGUE_SOURCES.keys()) - EVALUATION_SOURCES
    assert [name for name in sorted(corpora) if f"`{name}`" not in texts[Path("NOTICE")]] == []


def test_no_path_of_one_machine(texts: dict[Path, str]) -> None:
    machine = re.compile(r"(^|[^.A-Za-z])/(work|farm|root|opt/wheels|tmp/bash)[_/]|(^|[^.])\.\./shared", re.MULTILINE)
    assert [str(name) for name, text in texts.items() if machine.search(text)] == []
