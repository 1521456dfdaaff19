import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.engine import Engine, SamplingParams
from understudy.errors import ToolError
from understudy.model.backends import open_backend
from understudy.npc.model import Model
from understudy.prompt import Conversation, Message, Renderer, ToolCall
from understudy.testing import tiny_model
from understudy.tools.functions import FunctionTool, load_tools, tool
from understudy.tools.loop import Called, Event, Finished, LoopLimits, Returned, Spoken, ToolLoop


class Script:
    """A model that says these lines, one an ask; in pieces of three letters."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.asks: list[tuple[tuple[Message, ...], list[str]]] = []

    def __call__(self, turn: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        self.asks.append((tuple(turn), [one["function"]["name"] for one in tools]))
        line = self.lines.pop(0)
        return (line[n : n + 3] for n in range(0, len(line), 3))

    async def later(self, turn: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
        for piece in self(turn, tools):
            await asyncio.sleep(0)
            yield piece


def say_call(name: str, **arguments: Any) -> str:
    return f"<toolcall> {json.dumps({'name': name, 'arguments': arguments})} </toolcall>\n"


class Inn:
    def __init__(self) -> None:
        self.log: list[str] = []

    def rent_room(self, room: str, nights: int = 1) -> dict[str, int]:
        """Rent a room."""
        self.log.append(f"{room} {nights}")
        if room == "attic":
            raise ValueError("The attic leaks.")
        return {"price": 4 * nights}

    async def ring(self) -> None:
        """Ring for supper."""
        await asyncio.sleep(0)
        self.log.append("ring")

    async def sleep(self) -> None:
        """Sleep for a hundred years."""
        await asyncio.sleep(3e9)

    @property
    def tools(self) -> list[FunctionTool]:
        return [tool(self.rent_room), tool(self.ring), tool(self.sleep)]


@pytest.fixture
def inn() -> Inn:
    return Inn()


@pytest.fixture(scope="module")
def random_model() -> Iterator[Model]:
    files = tiny_model()
    backend = open_backend(files.config, files.weights, "reference")
    with Model(files=files, engine=Engine(backend, files.tokenizer), renderer=Renderer(files.tokenizer)) as model:
        yield model


def texts(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Spoken))


def returned(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    return [(e.call.name, e.result.status, e.result.text) for e in events if isinstance(e, Returned)]


def is_sound(messages: Sequence[Message]) -> bool:
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            if not waiting or message.tool_call_id != waiting.pop(0):
                return False
        elif waiting or message.role != "assistant":
            return False
        else:
            waiting = [call.id for call in message.tool_calls]
    return not waiting


def test_words_only(inn: Inn) -> None:
    loop, script = ToolLoop(inn.tools), Script("Good evening, love.")
    events = list(loop.run(script))
    assert texts(events) == loop.text == "Good evening, love."
    assert events[-1] == Finished("Good evening, love.", "answered")
    assert len(events) > 2
    assert loop.messages == (Message(role="assistant", content="Good evening, love."),)
    assert script.asks == [((), ["rent_room", "ring", "sleep"])]


def test_a_call_its_result_and_the_line(inn: Inn) -> None:
    loop = ToolLoop(inn.tools)
    script = Script("Let me see. " + say_call("rent_room", room="river", nights="2"), "Eight herons, love.")
    events = list(loop.run(script))
    assert inn.log == ["river 2"]
    assert texts(events) == loop.text == "Let me see.\nEight herons, love."
    called = next(e.call for e in events if isinstance(e, Called))
    assert (called.name, json.loads(called.arguments)) == ("rent_room", {"room": "river", "nights": "2"})
    assert called.id.startswith("call_")
    assert returned(events) == [("rent_room", "ok", '{"price":8}')]
    assert events[-1] == Finished(loop.text, "answered")
    assert loop.messages == (
        Message(role="assistant", content="Let me see.", tool_calls=(called,)),
        Message(role="tool", content='{"price":8}', tool_call_id=called.id),
        Message(role="assistant", content="Eight herons, love."),
    )
    assert script.asks[1][0] == loop.messages[:2]


def test_calls_at_once_keep_their_order(inn: Inn) -> None:
    both = [{"name": "rent_room", "arguments": {"room": r}} for r in "ab"]
    line = say_call("ring") + f"<toolcall>{json.dumps(both)}</toolcall>" + say_call("rent_room", room="c")
    loop = ToolLoop(inn.tools)
    events = list(loop.run(Script(line, "Done.")))
    assert inn.log == ["ring", "a 1", "b 1", "c 1"]
    ids = [call.id for call in loop.messages[0].tool_calls]
    assert len(set(ids)) == 4
    assert [m.tool_call_id for m in loop.messages[1:5]] == ids
    kinds = [type(e) for e in events if not isinstance(e, Spoken)]
    assert kinds == [Called, Returned] * 4 + [Finished]


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        (say_call("rent_room", room="attic"), "failed", "The attic leaks."),
        (say_call("rent_room", nights=2), "invalid", "room: Field required"),
        (say_call("rent_room", room="a", nights="many"), "invalid", "nights: Input should be a valid integer"),
        (say_call("fly"), "invalid", "There is no function 'fly'; there is rent_room, ring, sleep."),
    ],
)
def test_what_goes_wrong_is_told_as_data(inn: Inn, line: str, status: str, told: str) -> None:
    loop, script = ToolLoop(inn.tools), Script(line, "I cannot, love.")
    events = list(loop.run(script))
    [(_, found, text)] = returned(events)
    assert found == status
    assert json.loads(text)["ok"] is False
    assert told in json.loads(text)["reason"]
    assert script.asks[1][0][1].content == text
    assert "Traceback" not in text
    assert loop.text == "I cannot, love."


def test_the_game_gets_the_error(inn: Inn) -> None:
    events = list(ToolLoop(inn.tools).run(Script(say_call("rent_room", room="attic"), "No.")))
    [error] = [e.result.error for e in events if isinstance(e, Returned)]
    assert isinstance(error, ValueError)


def test_the_game_may_refuse(inn: Inn) -> None:
    seen: list[tuple[ToolCall, Mapping[str, Any]]] = []

    def refuse(call: ToolCall, values: Mapping[str, Any]) -> str | None:
        seen.append((call, values))
        return "The purse is empty." if values.get("nights", 1) > 1 else None

    line = say_call("rent_room", room="a", nights="3") + say_call("rent_room", room="b") + say_call("rent_room")
    events = list(ToolLoop(inn.tools, refuse=refuse).run(Script(line, "There.")))
    assert inn.log == ["b 1"]
    assert [values for _, values in seen] == [{"room": "a", "nights": 3}, {"room": "b"}]
    assert returned(events)[0][1:] == ("refused", '{"ok":false,"reason":"The purse is empty."}')
    assert [status for _, status, _ in returned(events)] == ["refused", "ok", "invalid"]


def test_a_model_that_only_calls_must_speak_in_the_end(inn: Inn) -> None:
    again = say_call("rent_room", room="a")
    loop, script = ToolLoop(inn.tools), Script(*[again] * 4, "Well! " + again)
    events = list(loop.run(script))
    assert inn.log == ["a 1"] * 4
    assert [names for _, names in script.asks] == [["rent_room", "ring", "sleep"]] * 4 + [[]]
    assert events[-1] == Finished("Well!", "rounds")
    assert is_sound(loop.messages)
    assert len(loop.messages) == 9


def test_too_many_calls_at_once(inn: Inn) -> None:
    loop = ToolLoop(inn.tools, limits=LoopLimits(max_calls=2))
    events = list(loop.run(Script(say_call("ring") * 5, "Ding.")))
    assert inn.log == ["ring"] * 2
    assert [status for _, status, _ in returned(events)] == ["ok"] * 2 + ["refused"] * 3
    assert len(loop.messages[0].tool_calls) == 2
    assert is_sound(loop.messages)


def test_no_function_begins_after_the_time_is_up(inn: Inn) -> None:
    now = [0.0]

    def slow(minutes: int) -> None:
        """Take time."""
        now[0] += minutes * 60

    tools = [*inn.tools, tool(slow)]
    loop = ToolLoop(tools, limits=LoopLimits(timeout_s=90), clock=lambda: now[0])
    script = Script(say_call("slow", minutes=1), say_call("slow", minutes=1) + say_call("ring"), "At last.")
    events = list(loop.run(script))
    assert inn.log == []
    assert [status for _, status, _ in returned(events)] == ["ok", "ok", "refused"]
    assert [e.duration_s for e in events if isinstance(e, Returned)] == [60, 60, 0]
    assert events[-1] == Finished("At last.", "deadline")
    assert script.asks[-1][1] == []


@pytest.mark.parametrize("is_async", [False, True])
def test_async_functions_are_stopped(inn: Inn, is_async: bool) -> None:
    loop = ToolLoop(inn.tools, limits=LoopLimits(timeout_s=0.02), clock=lambda: 0.0)
    events = run(loop, Script(say_call("sleep"), "Morning!"), is_async=is_async)
    assert returned(events) == [("sleep", "failed", '{"ok":false,"reason":"It took too long."}')]
    assert events[-1] == Finished("Morning!", "answered")


def run(loop: ToolLoop, script: Script, *, is_async: bool) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in loop.arun(script.later)]

    return asyncio.run(collect()) if is_async else list(loop.run(script))


def test_both_ways_give_the_same(inn: Inn) -> None:
    lines = ["Wait. " + say_call("ring") + say_call("rent_room", room="x"), say_call("rent_room", room="attic"), "So."]

    def plain(events: Sequence[Event]) -> list[object]:
        return [
            (type(e), e.text if isinstance(e, Spoken | Finished) else (e.call.name, getattr(e, "result", None)))
            for e in events
        ]

    first = plain(run(ToolLoop(inn.tools[:2]), Script(*lines), is_async=False))
    again = plain(run(ToolLoop(inn.tools[:2]), Script(*lines), is_async=True))
    assert [str(one) for one in first] == [str(one) for one in again]
    assert inn.log == ["ring", "x 1", "attic 1"] * 2


def test_in_a_dry_run_nothing_happens(inn: Inn) -> None:
    loop, script = ToolLoop(inn.tools, is_dry_run=True), Script("One moment. " + say_call("ring") + say_call("fly"))
    events = list(loop.run(script))
    assert inn.log == []
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, [c.name for c in events[-1].calls]) == ("shown", ["ring", "fly"])
    assert loop.messages == (Message(role="assistant", content="One moment."),)


def test_schemas_without_functions_are_shown(inn: Inn, tmp_path: Any) -> None:
    path = tmp_path / "tools.json"
    path.write_text('[{"name": "open_gate"}]')
    loop = ToolLoop([*inn.tools, *load_tools(str(path))])
    events = list(loop.run(Script(say_call("open_gate", gate="north") + say_call("ring"))))
    assert inn.log == ["ring"]
    assert isinstance(events[-1], Finished)
    assert [call.arguments for call in events[-1].calls] == ['{"gate": "north"}']
    assert [m.role for m in loop.messages] == ["assistant", "tool"]
    assert is_sound(loop.messages)


@pytest.mark.parametrize(
    "broken", ['<toolcall> {"name": "rent_room", "arg', '<toolcall> {"name": 3} </toolcall>', "<toolcall> {<tool>"]
)
def test_half_a_call_is_never_heard(inn: Inn, broken: str) -> None:
    loop, script = ToolLoop(inn.tools), Script(broken, "Pardon?")
    assert list(loop.run(script))[-1] == Finished(loop.text, "broken")
    assert loop.text == "Pardon?"
    loop = ToolLoop(inn.tools)
    assert list(loop.run(Script(f"Certainly. {broken}")))[-1].reason == "answered"
    assert "name" not in loop.text


def test_silence(inn: Inn) -> None:
    loop = ToolLoop(inn.tools)
    assert list(loop.run(Script(" \n"))) == [Finished("", "answered")]
    assert loop.messages == ()


def test_long_results_are_cut() -> None:
    def read() -> str:
        """Read the book."""
        return "x" * 5000

    loop = ToolLoop([tool(read)], limits=LoopLimits(max_result_chars=10))
    list(loop.run(Script(say_call("read"), "Long.")))
    assert loop.messages[1].content == "x" * 10 + " ... (cut)"


def test_without_tools_one_line(inn: Inn) -> None:
    script = Script("Good day. " + say_call("ring"))
    assert list(ToolLoop([]).run(script))[-1] == Finished("Good day.", "answered")
    assert script.asks == [((), [])]


def test_an_abort_leaves_a_sound_turn(inn: Inn) -> None:
    line = "First. " + say_call("ring") + say_call("rent_room", room="a")
    num_events = len(list(ToolLoop(inn.tools).run(Script(line, "Second."))))
    for stop in range(num_events):
        inn.log.clear()
        loop = ToolLoop(inn.tools)
        events = loop.run(Script(line, "Second."))
        for _ in range(stop):
            next(events)
        events.close()
        assert is_sound(loop.messages)
        assert sum(m.role == "tool" for m in loop.messages) == len(inn.log)


def test_stopping_stops_the_model(inn: Inn) -> None:
    closed = []

    def ask(turn: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        try:
            while True:
                yield "on and "
        finally:
            closed.append("sync")

    async def aask(turn: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
        try:
            while True:
                yield "on and "
        finally:
            closed.append("async")

    events = ToolLoop(inn.tools).run(ask)
    assert next(events) == Spoken("on and")
    events.close()

    async def listen() -> None:
        stream = ToolLoop(inn.tools).arun(aask)
        assert await anext(stream) == Spoken("on and")
        await stream.aclose()

    asyncio.run(listen())
    assert closed == ["sync", "async"]


def test_two_of_one_name(inn: Inn) -> None:
    with pytest.raises(ToolError, match="the same name"):
        ToolLoop([*inn.tools, tool(inn.rent_room)])


@pytest.mark.parametrize("change", [{"max_rounds": 0}, {"max_calls": 0}, {"timeout_s": 0}, {"max_result_chars": -1}])
def test_limits_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match=next(iter(change))):
        LoopLimits(**change)
    assert LoopLimits(timeout_s=None).timeout_s is None


PARTS = st.sampled_from(
    [
        "Words. ",
        "<toolcall>",
        "</toolcall>",
        '{"name": "ring", "arguments": {}}',
        '{"name": "rent_',
        "<tool>",
        "\n",
        "]",
    ]
)


@settings(max_examples=40)
@given(st.lists(st.lists(PARTS, max_size=8).map("".join), min_size=9, max_size=9))
def test_any_text_ends(lines: list[str]) -> None:
    inn, script = Inn(), Script(*lines)
    loop = ToolLoop(inn.tools)
    events = list(loop.run(script))
    assert isinstance(events[-1], Finished)
    assert len(script.asks) <= 5
    assert is_sound(loop.messages)
    assert texts(events) == events[-1].text == loop.text
    assert "<toolcall>" not in loop.text


@pytest.mark.parametrize("seed", range(3))
def test_a_real_model_whatever_it_says(inn: Inn, random_model: Model, seed: int) -> None:
    tokenizer = random_model.files.tokenizer
    marker = tokenizer.special_id("<toolcall>")
    assert marker is not None
    sampling = dataclasses.replace(SamplingParams(temperature=1.5, seed=seed), logit_bias={marker: 4.0})

    def ask(turn: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        talk = Conversation(messages=(Message(role="user", content="A room!"), *turn), tools=tuple(tools))
        for chunk in random_model.generate(talk, sampling=sampling, max_tokens=24):
            yield chunk.text

    loop = ToolLoop(inn.tools)
    events = list(loop.run(ask))
    assert isinstance(events[-1], Finished)
    assert is_sound(loop.messages)
    assert texts(events) == loop.text
    assert "<toolcall>" not in loop.text
