"""The sample games, played: what holds however small the model is."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from understudy.engine import Engine, SamplingParams
from understudy.model.backends import open_backend
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.prompt import Renderer, ToolCall
from understudy.testing import tiny_model
from understudy.tools.functions import ToolResult, load_tools
from understudy.tools.history import mend_history
from understudy.tools.loop import Returned

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def innkeeper() -> Iterator[ModuleType]:
    load_tools(f"{EXAMPLES / 'innkeeper.py'}:TOOLS")
    yield sys.modules["tools_of_innkeeper"]
    del sys.modules["tools_of_innkeeper"]


@pytest.fixture(scope="module")
def harrow() -> Iterator[Model]:
    with Model.load() as model:
        yield model


def test_the_innkeepers_book(innkeeper: ModuleType) -> None:
    inn = innkeeper.Inn()
    tools = {one.name: one for one in inn.tools}
    assert all(one.description for one in tools.values())
    assert json.loads(tools["rent_room"].call('{"room": "river", "nights": 2}'))["owes_pennies"] == 16
    full = inn.pages()
    for name, arguments, reason in (
        ("rent_room", '{"room": "river", "nights": 1}', "The river room is taken."),
        ("rent_room", '{"room": "roof", "nights": 1}', None),
        ("rent_room", '{"room": "single", "nights": 9}', "That is 45 pennies more, and the slate is full. Pay first."),
        ("sell_stew", '{"bowls": 13}', None),
        ("pay_debt", '{"pennies": 17}', "The guest owes only 16 pennies."),
    ):
        answer = json.loads(tools[name].call(arguments))
        assert answer["ok"] is False
        assert reason in (None, answer["reason"])
        assert inn.pages() == full
    assert json.loads(tools["sell_stew"].call('{"bowls": 3}'))["price_pennies"] == 9
    assert json.loads(tools["pay_debt"].call('{"pennies": 5}'))["owes_pennies"] == 20
    assert json.loads(tools["read_debt"].call("{}"))["owes_pennies"] == inn.debt == 20
    assert [name for name, _, _ in inn.pages()["calls"]] == ["rent_room", "sell_stew", "pay_debt", "read_debt"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Two nights and forty-six pennies", {2, 46}),
        ("this one and that one, no one", set()),
        ("One bowl. 12 nights", {1, 12}),
        ("Ninety", {90}),
        ("", set()),
    ],
)
def test_numbers_in_words(innkeeper: ModuleType, text: str, numbers: set[int]) -> None:
    assert innkeeper.numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("said", "is_true"),
    [
        ("Two bowls, six pennies.", True),
        ("You owe sixteen pennies.", True),
        ("You owe 16, love.", True),
        ("Mind your boots.", True),
        ("You owe 6 pennies.", False),
        ("You owe me nothing.", False),
        ("Two pennies, please.", False),
        ("A penny a bowl.", False),
        ("Three bowls.", False),
        ("", False),
    ],
)
def test_words_that_agree(innkeeper: ModuleType, said: str, is_true: bool) -> None:
    result = ToolResult(text='{"ok":true,"price_pennies":6,"owes_pennies":16,"bowls":2}')
    call = ToolCall(name="sell_stew", arguments='{"bowls": 2}')
    assert innkeeper.agrees(said, "Two bowls of stew!", [Returned(call, result)]) == is_true
    assert not innkeeper.agrees("Six pennies.", "Six pennies?", [])


def play(module: ModuleType, model: Model, tmp_path: Path, num_turns: int, sampling: SamplingParams | None) -> int:
    """Play the evening, in two sittings; what must hold is asserted. The number of turns with the right function."""
    book, save, num_right = str(tmp_path / "book.db"), tmp_path / "save.npc", 0
    game = module.Game(module.Inn(book), model)
    for number, (line, wanted) in enumerate(module.EVENING[:num_turns]):
        if number == num_turns // 2:
            game.npc.save(save)
            game.inn.book.close()
            inn = module.Inn(book)
            game = module.Game(inn, model, save)
        inn = game.inn
        before = inn.pages()
        turn = game.play(line, sampling=sampling)
        num_right += [event.call.name for event in turn.returned] == ([wanted] if wanted else [])
        done = [event for event in turn.returned if event.result.status == "ok"]
        assert {event.result.status for event in turn.returned} <= {"ok", "failed", "refused"}
        if not done:
            assert inn.pages() == before
        assert len(inn.pages()["calls"]) == len(before["calls"]) + len(done)
        check_words(turn.said, inn, [json.loads(event.result.text) for event in done], turn.is_corrected)
        assert game.npc.history[-1].content == turn.said
    check_state(module, game.inn, game.npc.session)
    game.inn.book.close()
    return num_right


def check_words(said: str, inn: Any, results: list[dict[str, Any]], is_corrected: bool) -> None:
    """What is said of money is what the book says."""
    assert said
    if owed := re.search(r"owe (\d+)", said):
        assert int(owed[1]) == inn.debt
    if not is_corrected:
        of_results = {value for result in results for value in result.values() if isinstance(value, int)}
        assert {int(number) for number in re.findall(r"(\d+) penn", said)} <= of_results


def check_state(module: ModuleType, inn: Any, session: Session) -> None:
    """The book is what its calls make of an empty one, and the history tells the same calls."""
    history = session.history
    assert mend_history(history) == history
    results = {message.tool_call_id: json.loads(message.content) for message in history if message.role == "tool"}
    calls = [call for message in history for call in message.tool_calls]
    told = [(call.name, json.loads(call.arguments), results[call.id]) for call in calls]
    written = [(name, json.loads(arguments), json.loads(result)) for name, arguments, result in inn.pages()["calls"]]
    assert [one for one in told if one[2].get("ok", True)] == written
    again = module.Inn()
    tools = {one.name: one for one in again.tools}
    for name, arguments, result in written:
        assert json.loads(tools[name].call(json.dumps(arguments))) == result
    assert again.pages() == inn.pages()


def test_an_evening_at_the_inn(innkeeper: ModuleType, harrow: Model, tmp_path: Path) -> None:
    assert play(innkeeper, harrow, tmp_path, 8, None) > 0


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_whole_evening_at_the_inn(
    innkeeper: ModuleType, harrow: Model, tmp_path: Path, temperature: float, record_property: Any
) -> None:
    sampling = SamplingParams(temperature=temperature, seed=1)
    num_right = play(innkeeper, harrow, tmp_path, len(innkeeper.EVENING), sampling)
    record_property("right_functions", num_right)
    print(f"temperature {temperature}: {num_right} of {len(innkeeper.EVENING)} turns with the right function")


@pytest.mark.parametrize("seed", range(3))
def test_a_random_model_does_no_harm(innkeeper: ModuleType, tmp_path: Path, seed: int) -> None:
    files = tiny_model()
    backend = open_backend(files.config, files.weights, "reference")
    marker = files.tokenizer.special_id("<toolcall>")
    assert marker is not None
    sampling = SamplingParams(temperature=1.0, seed=seed, logit_bias={marker: 4.0})
    engine = Engine(backend, files.tokenizer)
    with Model(files=files, engine=engine, renderer=Renderer(files.tokenizer)) as model:
        play(innkeeper, model, tmp_path, 4, sampling)
