"""The golden cases of tests/golden/lorebook, and what holds for all scans."""

import itertools
import json
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.npc.lorebook import EntryOutcome, Lorebook, LoreScan, LoreState, Position, ScanSettings, scan_lorebooks
from understudy.prompt import Message

GOLDEN = Path(__file__).parents[2] / "golden" / "lorebook"
TABLES = sorted(path.stem for path in GOLDEN.glob("*.toml"))
CASES = [(table, case) for table in TABLES for case in tomllib.loads((GOLDEN / f"{table}.toml").read_text())["cases"]]


def count(text: str) -> int:
    return len(text.split())


def messages(said: list[str]) -> list[Message]:
    """The player speaks last, and in turns with the character."""
    roles = itertools.cycle(["user", "assistant"] if len(said) % 2 else ["assistant", "user"])
    return [Message(role=role, content=line) for role, line in zip(roles, said, strict=False)]  # type: ignore[arg-type]


def books(case: dict[str, Any]) -> list[Lorebook]:
    def content(values: dict[str, Any], name: str) -> dict[str, Any]:
        return {"content": f"Text of {name}.", **values}

    found = []
    if "entries" in case:
        entries = [{"id": name, **content(values, name)} for name, values in case["entries"].items()]
        document = {**case.get("book", {}), "entries": entries}
        found.append({"spec": case["spec"], "data": document} if "spec" in case else document)
    if "world" in case:
        found.append({"entries": {n: {"uid": n, **content(values, n)} for n, values in case["world"].items()}})
    return [Lorebook.from_json(document) for document in found]


def scan(case: dict[str, Any], said: list[str], state: LoreState | None = None, **changes: Any) -> LoreScan:
    given_names = {key: case[key] for key in ("seed", "greeting", "user_icon", "is_context_full") if key in case}
    return scan_lorebooks(
        books(case),
        messages(said),
        state,
        count=count,
        char="Ada",
        user=case.get("user", "Bren"),
        **{"settings": ScanSettings(**case.get("settings", {})), **given_names, **changes},
    )


def place(outcome: EntryOutcome) -> str:
    at_depth = f" {outcome.depth} {outcome.entry.role}" if outcome.position is Position.AT_DEPTH else ""
    return f"{outcome.position}{at_depth}"


@pytest.mark.parametrize(("table", "case"), CASES, ids=[f"{table}: {case['rule']}" for table, case in CASES])
def test_golden(table: str, case: dict[str, Any]) -> None:
    if "timeline" in case:
        state, seen = LoreState(), []
        for length in range(1, len(case["said"]) + 1):
            found = scan(case, case["said"][:length], state)
            state = LoreState.from_json(json.loads(json.dumps(found.state.to_json())))
            seen.append({outcome.entry.id: outcome.reason.value for outcome in found.outcomes})
        assert {name: [turn[name] for turn in seen] for name in case["timeline"]} == case["timeline"]
        return
    found = scan(case, case["said"])
    assert {o.entry.id: o.explain().partition(": ")[2] for o in found.outcomes} == case["why"]
    names = [outcome.entry.id for outcome in found.chosen]
    assert set(names) == {outcome.entry.id for outcome in found.outcomes if outcome.is_kept}
    assert names == case.get("order", names)
    assert list(found.texts()) == case.get("texts", list(found.texts()))
    scans = {outcome.entry.id: outcome.scan for outcome in found.chosen}
    assert scans == case.get("scans", scans)
    places = {outcome.entry.id: place(outcome) for outcome in found.chosen}
    assert places == case.get("positions", places)
    assert sorted(found.disabled_prompts) == case.get("disabled_prompts", [])
    assert found.tokens == sum(map(count, found.texts()))


def test_there_are_enough_cases() -> None:
    assert len({case["rule"] for _, case in CASES}) == len(CASES) >= 80


SONGS = {"world": {n: {"key": ["song"], "group": "songs", "groupWeight": w} for n, w in (("a", 100), ("b", 300))}}
RARE = {"world": {"a": {"key": ["well"], "probability": 25}}}


def test_draws_follow_weight_and_probability() -> None:
    winners = [scan(SONGS, ["a song"], seed=seed).chosen[0].entry.id for seed in range(200)]
    assert 25 < winners.count("a") < 75
    kept = sum(len(scan(RARE, ["the well"], seed=seed).chosen) for seed in range(200))
    assert 25 < kept < 75


def test_draws_are_new_in_each_turn_and_the_same_with_the_same_seed() -> None:
    said = ["the well"] * 40
    turns = [len(scan(RARE, said[:n], seed=1).chosen) for n in range(1, 40)]
    assert turns == [len(scan(RARE, said[:n], seed=1).chosen) for n in range(1, 40)]
    assert 0 < sum(turns) < 25


def test_the_luck_of_an_entry_does_not_hang_on_others() -> None:
    more = {"world": {"0": {"key": ["well"], "probability": 50}, **RARE["world"]}}
    for seed in range(20):
        alone, beside = scan(RARE, ["well"], seed=seed), scan(more, ["well"], seed=seed)
        assert alone.outcomes[0] == beside.outcomes[1]


def test_a_turn_taken_back_takes_its_timers_back() -> None:
    case = {"world": {"a": {"key": ["well"], "sticky": 3}}}
    first = scan(case, ["the well"])
    assert first.state.timers
    assert scan(case, ["the mill"], first.state).outcomes[0].reason == "no key"
    assert scan(case, ["the well", "I see.", "and?"], first.state).outcomes[0].reason == "sticky"


def test_a_changed_entry_has_no_timer() -> None:
    case = {"world": {"a": {"key": ["well"], "sticky": 3}}}
    state = scan(case, ["the well"]).state
    changed = {"world": {"a": {"key": ["well"], "sticky": 3, "content": "New."}}}
    assert scan(changed, ["the well", "mill", "mill"], state).outcomes[0].reason == "no key"


def test_calls_of_functions_and_the_system_do_not_count() -> None:
    history = [
        Message(role="system", content="well"),
        Message(role="user", content="the mill"),
        Message(role="assistant", content=""),
        Message(role="tool", content="well"),
    ]
    found = scan_lorebooks(
        books({"world": {"a": {"key": ["well"]}, "b": {"key": ["mill"]}}}), history, count=count, char="", user=""
    )
    assert [outcome.entry.id for outcome in found.chosen] == ["b"]


@pytest.mark.parametrize(
    "key",
    [
        "/(a+)+$/",
        "/(a|aa)+$/",
        "/(.*a){20}$/",
        r"/(\w+\s?)*$!/",
        "/([ab]{1,100}){1,100}x/",
        "/(?:a.{0,9}){0,9}1|(?:a.{0,9}){0,9}2/i",
        "/" + "(" * 400 + "a" + ")*" * 400 + "/",
        "a" * 100_000,
    ],
)
def test_hostile_keys_take_little_time(key: str) -> None:
    case = {"world": {str(n): {"key": [key]} for n in range(5)}}
    start = time.process_time()
    scan(case, ["a" * 100_000 + "!"])
    assert time.process_time() - start < 5


def test_a_large_book_takes_little_time() -> None:
    case = {"world": {str(n): {"key": [f"key{n}", f"/k{n}[a-z]/"], "content": f"See key{n + 1}."} for n in range(500)}}
    start = time.process_time()
    found = scan(case, ["Tell me of key0. " * 50], settings=ScanSettings(is_recursive=True, budget_tokens=None))
    assert time.process_time() - start < 5
    assert len(found.chosen) == ScanSettings().max_scans


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "key": st.lists(st.sampled_from(["a", "b", "/a|b/", "/(/", "{{user}}", ""]), max_size=3),
        "keysecondary": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
        "selectiveLogic": st.integers(0, 3),
        "constant": st.booleans(),
        "probability": st.integers(0, 100),
        "group": st.sampled_from(["", "g", "g, h"]),
        "groupOverride": st.booleans(),
        "useGroupScoring": st.booleans(),
        "delayUntilRecursion": st.sampled_from([False, True, 1, 2]),
        "sticky": st.integers(0, 3),
        "cooldown": st.integers(0, 3),
        "content": st.sampled_from(["a", "b c", "@@activate\na", "@@depth 1\n@@@role user\nb", ""]),
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(ENTRIES, max_size=6), st.lists(st.sampled_from(["a", "b", "a c", "d"]), min_size=1, max_size=6))
def test_any_book_keeps_its_word(entries: list[dict[str, Any]], said: list[str]) -> None:
    case = {"world": {str(n): entry for n, entry in enumerate(entries)}}
    state = None
    for length in range(1, len(said) + 1):
        found = scan(case, said[:length], state, settings=ScanSettings(is_recursive=True, budget_tokens=4))
        assert found == scan(case, said[:length], state, settings=ScanSettings(is_recursive=True, budget_tokens=4))
        assert len(found.outcomes) == len(entries)
        assert found.tokens <= 4
        assert all(outcome.detail for outcome in found.outcomes)
        kept = [outcome.entry for outcome in found.chosen if outcome.reason != "sticky"]
        assert len({group for entry in kept for group in entry.groups}) >= sum(bool(entry.groups) for entry in kept)
        state = found.state
