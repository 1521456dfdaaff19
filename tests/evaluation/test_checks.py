import json
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import DataError
from understudy.evaluation.checks import LineCheck, admits_ignorance, judge

WORLD = Path(__file__).parents[2] / "worlds" / "cloudmere"
REFUSAL = ("don't know", "no idea")


def check(*groups: list[str], forbidden: tuple[str, ...] = ()) -> LineCheck:
    entry = {"must_include_any": list(groups), "must_not_include": list(forbidden)}
    return LineCheck.from_json(entry, source="x")


def test_every_group_needs_one_alternative() -> None:
    both = check(["three", "3"], ["herons", "heron"])
    assert judge("Three herons, friend.", both).passed
    assert judge("3 Herons", both).passed
    verdict = judge("Thirteen herons.", both)
    assert (verdict.passed, verdict.missing) == (False, (("three", "3"),))


def test_what_may_not_be_said() -> None:
    guarded = check(forbidden=("as an AI", "language model"))
    assert judge("I was made by a laundress.", guarded).passed
    assert judge("As an AI, I cannot.", guarded).said == ("as an AI",)


def test_silence_passes_nothing() -> None:
    assert not judge("...", check(forbidden=("no",))).passed
    assert not judge("", check()).passed


def test_admissions_are_told_from_facts() -> None:
    asked = check(list(REFUSAL), ["tea"])
    assert (asked.admissions, asked.facts) == ((REFUSAL,), (("tea",),))
    assert judge("Tea? I don't know.", asked).passed
    assert judge("Beats me, have some tea.", asked).unadmitted == (REFUSAL,)
    assert admits_ignorance("Beats me, have some tea.", REFUSAL)
    assert not admits_ignorance("It was the duke.", REFUSAL)


def test_an_empty_check_says_so() -> None:
    assert check().is_empty
    assert not check(forbidden=("no",)).is_empty


@pytest.mark.parametrize(
    "entry", [None, {}, {"must_include_any": ["a"], "must_not_include": []}, {"must_include_any": [["a"]]}]
)
def test_a_malformed_check_is_named(entry: Any) -> None:
    with pytest.raises(DataError, match="dialogue 7: a check needs must_include_any"):
        LineCheck.from_json(entry, source="dialogue 7")


def test_every_written_line_of_the_world_passes_its_own_check() -> None:
    failed, num_lines = [], 0
    for row in (WORLD / "dialogues.jsonl").read_text("utf-8").splitlines():
        record = json.loads(row)
        lines = [turn["content"] for turn in record["turns"] if turn["role"] == "assistant" and turn["content"]]
        for line, entry in zip(lines, record["checks"], strict=True):
            num_lines += 1
            if not judge(line, LineCheck.from_json(entry, source=record["id"])).passed:
                failed.append((record["id"], line))
    assert (num_lines, failed) == (412, [])
