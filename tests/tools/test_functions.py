import asyncio
import dataclasses
import json
import logging
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from understudy.errors import ToolError
from understudy.tools.functions import load_tools, refusal, tool


@dataclasses.dataclass
class Bill:
    guest: str
    pennies: int


class Order(BaseModel):
    dish: str
    portions: Annotated[int, Field(ge=1)] = 1


@tool
def total(orders: list[Order], day: date, table: Literal["hearth", "window"] = "hearth") -> dict[str, Any]:
    """Add up what was ordered."""
    return {"sum": sum(order.portions for order in orders), "day": day, "table": table}


@tool(name="ring-bell", description="Ring for supper.")
def ring() -> None: ...


@tool
async def wait_for(minutes: float) -> str:
    """Let time pass."""
    await asyncio.sleep(0)
    return f"{minutes:g} minutes later"


def reason(text: str) -> str:
    value = json.loads(text)
    assert list(value) == ["ok", "reason"] and value["ok"] is False
    return value["reason"]


def test_the_function_can_still_be_called() -> None:
    assert total([Order(dish="eel")], date(2026, 1, 2))["sum"] == 1
    assert asyncio.run(wait_for(2)) == "2 minutes later"


def test_names_and_descriptions_of_ones_own() -> None:
    assert ring.schema["function"] == {
        "name": "ring-bell",
        "description": "Ring for supper.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    }
    assert tool(print_line, name="say").name == "say"


def print_line(line: str) -> str:
    return line


def test_arguments_are_converted() -> None:
    values = total.read('{"orders": [{"dish": "eel", "portions": "2"}], "day": "2026-03-01"}')
    assert values == {"orders": [Order(dish="eel", portions=2)], "day": date(2026, 3, 1)}
    text = total.call('{"orders": [{"dish": "eel", "portions": 2}], "day": "2026-03-01"}')
    assert json.loads(text) == {"sum": 2, "day": "2026-03-01", "table": "hearth"}


def test_methods_of_an_object() -> None:
    class Till:
        pennies = 5

        def take(self, sum_: int) -> int:
            """Take money."""
            self.pennies += sum_
            return self.pennies

    till = Till()
    assert tool(till.take).call('{"sum_": 3}') == "8"
    assert till.pennies == 8


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("{}", "orders: Field required; day: Field required"),
        ('{"orders": [], "day": "soon"}', "day: Input should be a valid date"),
        ('{"orders": [{"dish": "a", "portions": 0}], "day": "2026-01-01"}', "orders.0.portions: "),
        ('{"orders": [], "day": "2026-01-01", "table": "roof"}', "table: Input should be 'hearth' or 'window'"),
        ('{"orders": [], "day": "2026-01-01", "tip": 3}', "tip: Extra inputs are not permitted"),
        ('{"orders": []', "Invalid JSON"),
        ("[1]", "should be an object"),
        ("null", "should be an object"),
        ("[" * 9999, "Invalid JSON"),
    ],
)
def test_bad_arguments_are_told_and_nothing_runs(arguments: str, problem: str) -> None:
    with pytest.raises(ToolError):
        total.read(arguments)
    assert problem in reason(total.call(arguments))
    assert "\n" not in total.call(arguments) and "http" not in total.call(arguments)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Room 3 is yours.", "Room 3 is yours."),
        (None, '{"ok":true}'),
        (3, "3"),
        (True, "true"),
        ([1, "ä"], '[1,"ä"]'),
        (Bill("Bren", 4), '{"guest":"Bren","pennies":4}'),
        (Order(dish="eel"), '{"dish":"eel","portions":1}'),
        ({"day": date(2026, 1, 2)}, '{"day":"2026-01-02"}'),
    ],
)
def test_results_as_text(value: object, text: str) -> None:
    def give() -> Any:
        return value

    assert tool(give).call("{}") == tool(give).call("") == text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("No room is free."), "No room is free."),
        (KeyError("silver"), "silver"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (RuntimeError("a\n  b" + "x" * 999), "a b" + "x" * 297 + " ..."),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_the_game_is_data_and_is_logged(
    error: Exception, told: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise error

    async def afail() -> str:
        raise error

    failing = tool(afail if is_async else fail)
    result = failing.invoke({})
    assert (result.status, result.error, reason(result.text)) == ("failed", error, told)
    assert asyncio.run(failing.ainvoke({})).error is error
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error, error]
    assert all(record.levelno == logging.ERROR and record.name.startswith("understudy.") for record in caplog.records)


@pytest.mark.parametrize("is_async", [False, True])
def test_the_game_says_no_without_noise(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        raise ToolError("The till is shut.")

    async def afail() -> str:
        fail()
        return ""

    assert reason(tool(afail if is_async else fail).call("")) == "The till is shut."
    assert caplog.records == []


def test_a_result_that_is_no_json() -> None:
    def give() -> Any:
        return object()

    result = tool(give).invoke({})
    assert result.status == "failed"
    assert "object" in reason(result.text)


def test_async_functions() -> None:
    async def twice() -> list[str]:
        return [await wait_for.acall('{"minutes": 1}'), await ring.acall(""), await wait_for.acall('{"minutes": "x"}')]

    later, rung, wrong = asyncio.run(twice())
    assert (later, rung) == ("1 minutes later", '{"ok":true}')
    assert "minutes: " in reason(wrong)
    assert wait_for.call('{"minutes": 2.5}') == "2.5 minutes later"

    async def inside() -> None:
        wait_for.call('{"minutes": 1}')

    with pytest.raises(ToolError, match="wait_for is async"):
        asyncio.run(inside())


def test_being_stopped_is_no_failure() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tool(stop).call("{}")


@settings(max_examples=50)
@given(st.text())
def test_any_text_as_arguments(text: str) -> None:
    try:
        assert isinstance(total.read(text), dict)
    except ToolError as error:
        assert refusal(str(error)).status == "refused"


SCHEMA = {
    "type": "function",
    "function": {"name": "open_gate", "description": "Open.", "parameters": {"type": "object"}},
}


def test_schemas_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    bare = {"name": "close_gate"}
    for value, names in [
        ([SCHEMA, bare], ["open_gate", "close_gate"]),
        (SCHEMA, ["open_gate"]),
        ({"tools": [bare]}, ["close_gate"]),
    ]:
        path.write_text(json.dumps(value))
        assert [one.name for one in load_tools(str(path))] == names
    path.write_text(json.dumps([SCHEMA, bare]))
    gate = load_tools(str(path))[0]
    assert (gate.schema, gate.function) == (SCHEMA, None)
    assert gate.read('{"a": 1}') == {"a": 1}
    with pytest.raises(ToolError, match="can be shown, not run"):
        gate.call("{}")
    for wrong in ("[1]", "{"):
        with pytest.raises(ToolError):
            gate.read(wrong)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "no valid JSON"),
        ("[]", "must hold a list"),
        ("3", "must hold a list"),
        ("[3]", "entry 0 must be a function's schema"),
        ('[{"name": 3}]', "entry 0: A tool needs a name"),
        ('[{"name": "a b"}]', "letters, digits"),
        ('[{"name": "a", "description": 3}]', "a description of text"),
        ('[{"name": "a", "parameters": []}]', '"parameters" must be'),
        ('[{"name": "a"}, {"name": "a"}]', "'a' comes twice"),
        ("[" * 99_999, "no valid JSON"),
        (" " * (1 << 21), "larger than 1 MiB"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(content)
    with pytest.raises(ToolError, match=problem):
        load_tools(str(path))


def test_functions_of_a_module(tmp_path: Path) -> None:
    path = tmp_path / "inn.py"
    path.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "from understudy.tools.functions import tool\n"
        "@dataclasses.dataclass\n"
        "class Bed:\n    number: int\n"
        "@tool\ndef make(bed: Bed) -> Bed:\n    return bed\n"
        "def plain(a: int) -> int:\n    return a + 1\n"
        "TOOLS = [make, plain]\n"
        "NOTHING = []\n"
    )
    assert [one.name for one in load_tools(f"{path}:TOOLS")] == ["make", "plain"]
    assert load_tools(f"{path}:make")[0].call('{"bed": {"number": 4}}') == '{"number":4}'
    assert load_tools(f"{path}:plain")[0].call('{"a": 4}') == "5"
    for spec in (f"{path}:none", f"{path}:NOTHING", f"{path}:Bed.number"):
        with pytest.raises(ToolError, match="has no function and no list of functions"):
            load_tools(spec)
    with pytest.raises(ToolError, match="say which function"):
        load_tools(str(path))


@pytest.mark.parametrize("spec", ["", "nowhere.json", "no.such.module:f", ":f", "..x:f", "nowhere.py:f", "a\0.json"])
def test_nothing_there(spec: str) -> None:
    with pytest.raises(ToolError):
        load_tools(spec)
