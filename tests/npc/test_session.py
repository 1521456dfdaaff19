import asyncio
import contextlib
import dataclasses
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from understudy.engine import Chunk, Engine, SamplingParams
from understudy.errors import ContextLengthError, SaveError
from understudy.model.backends import open_backend
from understudy.npc.card import Card
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.npc.world import World
from understudy.npc.world_lore import open_world_lore
from understudy.prompt import Conversation, Message, Renderer, ToolCall
from understudy.retrieval import Document, Lore, Passage, build_lore
from understudy.testing import tiny_model
from understudy.tools.functions import tool
from understudy.tools.loop import Event, Finished, Returned, Spoken


def count(conversation: Conversation) -> int:
    """One token a word; the system prompt is free."""
    texts = [m.content for m in conversation.messages if m.role != "system"] + list(conversation.contexts)
    return sum(len(text.split()) for text in texts)


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages[1:]]


def reopened(session: Session, world: World | None = None, change: Mapping[str, Any] | None = None) -> Session:
    """The session as it comes back from its document, of which some fields were changed."""
    document = {**json.loads(json.dumps(session.to_json())), **(change or {})}
    return Session.from_json(document, source="evening.npc", world=world)


@pytest.fixture
def session(hill: World) -> Session:
    return Session(hill.characters[0], hill, "Bren")


def test_first_line(session: Session) -> None:
    conversation = session.conversation("Hello", max_prompt_tokens=99, count=count)
    assert [m.role for m in conversation.messages] == ["system", "user"]
    assert conversation.messages[0].content == "You are Ada Fell, smith in the Hill."
    assert conversation.contexts == ()
    assert session.history == []


def test_lore_comes_as_contexts(session: Session) -> None:
    conversation = session.conversation("Whose is the well?", max_prompt_tokens=99, count=count)
    assert conversation.contexts == ("Text 1.",)
    assert session.last_lore[0].matched_keys == ("well",)
    session.commit("Whose is the well?", "Mine.")
    assert session.conversation("Since when?", max_prompt_tokens=99, count=count).contexts == ("Text 1.",)


def test_history_is_carried(session: Session) -> None:
    session.commit("Hello", "Good day")
    conversation = session.conversation("And you?", max_prompt_tokens=99, count=count)
    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "user"]
    assert contents(conversation) == ["Hello", "Good day", "And you?"]
    session.reset()
    assert contents(session.conversation("Hello", max_prompt_tokens=99, count=count)) == ["Hello"]


@pytest.mark.parametrize("budget", range(1, 25))
def test_the_oldest_pairs_go_first(session: Session, budget: int) -> None:
    for n in range(10):
        session.commit(f"q{n}", f"a{n}")
    kept = contents(session.conversation("now", max_prompt_tokens=budget, count=count))
    pairs = min(10, (budget - 1) // 2)
    assert kept == [text for n in range(10 - pairs, 10) for text in (f"q{n}", f"a{n}")] + ["now"]


def test_what_world_and_database_both_hold_is_given_once(hill: World) -> None:
    with open_world_lore(hill) as lore:
        session = Session(hill.characters[0], hill, lore=lore)
        assert [one.text for one in lore.search("Whose is the well?", character="ada")] == ["Text 1."]
        talk = session.conversation("Whose is the well?", max_prompt_tokens=100, count=count)
    assert talk.contexts == ("Text 1.",)


def test_lore_goes_after_the_history(session: Session) -> None:
    session.commit("q", "a")
    line = "well, mill"
    assert len(session.conversation(line, max_prompt_tokens=8, count=count).contexts) == 2
    tight = session.conversation(line, max_prompt_tokens=6, count=count)
    assert (contents(tight), tight.contexts) == ([line], ("Text 1.", "Text 2."))
    tighter = session.conversation(line, max_prompt_tokens=5, count=count)
    assert (contents(tighter), tighter.contexts) == ([line], ("Text 1.",))
    assert len(session.last_lore) == 1


def test_a_line_that_does_not_fit_is_refused(session: Session) -> None:
    session.commit("q", "a")
    with pytest.raises(ContextLengthError) as caught:
        session.conversation("the well " * 50, max_prompt_tokens=99, count=count)
    assert (caught.value.num_prompt_tokens, caught.value.max_tokens) == (100, 99)
    assert len(session.history) == 2


def test_foreign_cards_have_no_place(hill: World) -> None:
    conversation = Session(Card(name="Eve"), hill).conversation("Hello", max_prompt_tokens=99, count=count)
    assert conversation.messages[0].content == "You are Eve."


def test_saved_and_loaded(session: Session, hill: World) -> None:
    session.commit("Grüße \ud83d", "Good “day”\n")
    again = reopened(session, hill)
    assert (again.card, again.world, again.player) == (session.card, hill, "Bren")
    assert again.history == session.history


def test_sample_world_survives(harrowmere: World) -> None:
    for card in harrowmere.characters:
        assert reopened(Session(card, harrowmere), harrowmere).card == card


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "other"}, "is no saved conversation"),
        ({"version": 4}, "has version 4"),
        ({"version": "1"}, "has version '1'"),
        ({"world": "elsewhere"}, "was saved in the world 'elsewhere'"),
        ({"player": None}, "is damaged"),
        ({"history": {}}, "is damaged"),
        ({"history": [{"role": "user", "content": "a"}]}, "its last line has no answer"),
        ({"history": [{"role": "assistant", "content": "a"}]}, 'line 1 of "history" must have role "user"'),
        ({"history": [{"role": "user", "content": 1}]}, 'line 1 of "history"'),
        ({"card": {"name": ""}}, "has no name"),
        ({"card": None}, "is damaged"),
    ],
)
def test_wrong_saves(session: Session, hill: World, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SaveError, match=problem) as caught:
        reopened(session, hill, change)
    assert "evening.npc" in str(caught.value)


class Actor:
    """A model that says these lines, one an answer; it remembers what it was shown."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.shown: list[Conversation] = []
        self.cancelled = 0
        self.files = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=400))
        self.count = count

    def call_constraint(self, schemas: object) -> object:
        return ("constraint", schemas)

    def generate(self, talk: Conversation, *, constraint: object, **_options: object) -> Any:
        assert constraint in (None, ("constraint", list(talk.tools)), ("constraint", talk.tools))
        self.shown.append(talk)
        return Speech(self, self.lines.pop(0), count(talk))


class Speech:
    def __init__(self, actor: Actor, line: str, num_tokens: int) -> None:
        self.actor, self.line = actor, line
        self.usage = SimpleNamespace(prompt_tokens=num_tokens)

    def __iter__(self) -> Iterator[Chunk]:
        return (Chunk(self.line[n : n + 4], (), None) for n in range(0, len(self.line), 4))

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self:
            await asyncio.sleep(0)
            yield chunk

    def cancel(self) -> None:
        self.actor.cancelled += 1


@tool
def rent_room(nights: int) -> str:
    """Rent a room."""
    return f"{nights} nights booked"


CALL = '<toolcall> {"name": "rent_room", "arguments": {"nights": 2}} </toolcall>'


def test_saying_a_line_runs_what_the_character_calls(hill: World) -> None:
    session = Session(hill.characters[0], hill, "Bren", tools=[rent_room])
    actor, events = Actor("Wait. " + CALL, "The bed is yours.", "Again?"), []
    pieces = list(session.say("A bed!", model=actor, on_event=events.append))
    assert "".join(pieces) == "Wait.\nThe bed is yours."
    assert len(pieces) > 3
    assert [type(e).__name__ for e in events if not isinstance(e, Spoken)] == ["Called", "Returned", "Finished"]
    assert [m.role for m in session.history] == ["user", "assistant", "tool", "assistant"]
    assert session.history[2].content == "2 nights booked"
    assert actor.shown[1].messages[1:] == tuple(session.history[:3])
    assert [one["function"]["name"] for one in actor.shown[0].tools] == ["rent_room"]
    assert session.num_prompt_tokens == count(actor.shown[1])
    assert [talk for talk, _ in session.asked] == actor.shown
    assert actor.cancelled == 2
    assert session.to_json()["version"] == 2
    again = reopened(session, hill)
    again.tools = (rent_room,)
    assert again.history == session.history
    assert "".join(again.say("And now?", model=actor)) == "Again?"
    assert [m.role for m in actor.shown[2].messages] == ["system", "user", "assistant", "tool", "assistant", "user"]
    again.history = again.history[-2:]
    assert again.to_json()["version"] == 1


async def test_saying_a_line_in_an_event_loop(hill: World) -> None:
    @tool
    async def ring_bell(times: int) -> str:
        """Ring the bell."""
        await asyncio.sleep(0)
        order.append("rung")
        return "ding"

    order: list[str] = []
    ring = CALL.replace("rent_room", "ring_bell").replace("nights", "times")
    session, twin = (Session(hill.characters[0], hill, "Bren", tools=[rent_room, ring_bell]) for _ in range(2))
    events: list[Event] = []
    said = session.asay("A bed!", model=Actor("Wait. " + CALL + ring, "The bed is yours."), on_event=events.append)
    asyncio.get_running_loop().call_soon(order.append, "another")
    assert "".join([piece async for piece in said]) == "Wait.\nThe bed is yours."
    assert order == ["another", "rung"]
    names = [type(event).__name__ for event in events if not isinstance(event, Spoken)]
    assert names == ["Called", "Returned"] * 2 + ["Finished"]

    def say() -> str:
        return "".join(twin.say("A bed!", model=Actor("Wait. " + CALL + ring, "The bed is yours.")))

    assert await asyncio.to_thread(say) == "Wait.\nThe bed is yours."
    assert [(m.role, m.content) for m in session.history] == [(m.role, m.content) for m in twin.history]


async def test_leaving_an_event_loops_turn_early(hill: World) -> None:
    session = Session(hill.characters[0], hill, tools=[rent_room])
    actor = Actor(CALL, "The bed is yours.")
    async with contextlib.aclosing(session.asay("A bed!", model=actor)) as pieces:
        assert await anext(pieces) == "The"
    assert [m.content for m in session.history] == ["A bed!", "", "2 nights booked", "The"]
    assert actor.cancelled == 2
    with pytest.raises(ContextLengthError):
        await anext(session.asay("long " * 500, model=actor))
    assert session.history[-1].content == "The"


async def test_a_cancelled_task_remembers_what_was_done(hill: World) -> None:
    @tool
    async def wait_long() -> None:
        """Wait."""
        begun.set()
        await asyncio.sleep(60)

    async def take_turn() -> None:
        async for _ in session.asay("A bed!", model=actor):
            pass

    begun = asyncio.Event()
    session = Session(hill.characters[0], hill, tools=[rent_room, wait_long])
    actor = Actor("Wait. " + CALL + '<toolcall> {"name": "wait_long", "arguments": {}} </toolcall>')
    task = asyncio.create_task(take_turn())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [m.content for m in session.history] == ["A bed!", "Wait.", "2 nights booked"]


def test_whole_exchanges_go_first(hill: World) -> None:
    session = Session(hill.characters[0], hill, tools=[rent_room])
    for _ in range(3):
        list(session.say("A bed!", model=Actor(CALL, "Yours.")))
    fits = [session.conversation("now", max_prompt_tokens=n, count=count).messages[1:] for n in range(1, 30)]
    assert {len(one) for one in fits} == {1, 5, 9, 13}
    assert all(one[0].role == "user" for one in fits)


def test_a_broken_history_is_not_shown(session: Session) -> None:
    session.commit("Hello", "Good day")
    broken = ToolCall(name="rent_room", arguments='{"nigh', id="a")
    session.history += [Message(role="user", content="q"), Message(role="assistant", tool_calls=(broken,))]
    shown = session.conversation("now", max_prompt_tokens=99, count=count).messages
    assert [m.content for m in shown[1:]] == ["Hello", "Good day", "q", "now"]


def test_a_dry_run_and_a_refusal(hill: World) -> None:
    session = Session(hill.characters[0], hill, tools=[rent_room])
    assert list(session.say("A bed!", model=Actor(CALL), is_dry_run=True)) == []
    assert session.history == []
    list(session.say("A bed!", model=Actor(CALL, "No."), refuse=lambda call, values: "Full."))
    assert json.loads(session.history[2].content) == {"ok": False, "reason": "Full."}


def test_leaving_early_keeps_what_was_done(hill: World) -> None:
    session = Session(hill.characters[0], hill, tools=[rent_room])
    pieces = session.say("A bed!", model=Actor(CALL, "The bed is yours."))
    assert next(pieces) == "The"
    pieces.close()
    assert [m.content for m in session.history] == ["A bed!", "", "2 nights booked", "The"]


def test_functions_of_the_world_need_the_card(hill: World) -> None:
    world = dataclasses.replace(hill, tools=({"name": "rent_room"},))
    ring = tool(lambda: "ding", name="ring")
    card = dataclasses.replace(hill.characters[0], tools=("rent_room",))
    assert Session(hill.characters[0], world, tools=[rent_room, ring]).offered_tools == (ring,)
    assert Session(card, world, tools=[rent_room, ring]).offered_tools == (rent_room, ring)


def test_a_line_too_long_is_refused_at_once(session: Session) -> None:
    with pytest.raises(ContextLengthError):
        session.say("long " * 500, model=Actor())
    assert session.history == []


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": {}},
        {"role": "assistant", "content": "", "tool_calls": [3]},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "a", "arguments": {}, "id": ""}]},
        {"role": "assistant", "content": "", "tool_call_id": 3},
    ],
)
def test_wrong_calls_in_a_save(session: Session, hill: World, turn: dict[str, Any]) -> None:
    history = [{"role": "user", "content": "a"}, turn]
    with pytest.raises(SaveError, match='line 2 of "history"'):
        reopened(session, hill, {"version": 2, "history": history})


@pytest.mark.parametrize("seed", range(4))
def test_a_random_models_calls_fit_their_schema(hill: World, seed: int) -> None:
    files = tiny_model()
    backend = open_backend(files.config, files.weights, "reference")
    marker = files.tokenizer.special_id("<toolcall>")
    assert marker is not None
    sampling = SamplingParams(temperature=1.0, seed=seed, logit_bias={marker: 60.0})
    events: list[Event] = []
    session = Session(hill.characters[1], hill, tools=[rent_room])
    engine = Engine(backend, files.tokenizer)
    with Model(files=files, engine=engine, renderer=Renderer(files.tokenizer)) as model:
        list(session.say("A bed!", model=model, sampling=sampling, max_tokens=90, on_event=events.append))
    results = [event.result for event in events if isinstance(event, Returned)]
    assert results
    assert {result.status for result in results} == {"ok"}
    assert isinstance(events[-1], Finished)


async def test_characters_of_one_model_speak_at_once(hill: World) -> None:
    files = tiny_model()
    backend = open_backend(files.config, files.weights, "reference")
    sampling = SamplingParams(temperature=0.0, seed=1)
    sessions = [Session(card, hill) for card in hill.characters]

    async def speak(session: Session, model: Model) -> str:
        said = session.asay("Hello", model=model, sampling=sampling, max_tokens=20)
        return "".join([piece async for piece in said])

    engine = Engine(backend, files.tokenizer)
    with Model(files=files, engine=engine, renderer=Renderer(files.tokenizer)) as model:
        together = await asyncio.gather(*(speak(session, model) for session in sessions))
        for session, answer in zip(sessions, together, strict=True):
            assert session.history[-1].content == answer
            session.reset()
            said = session.say("Hello", model=model, sampling=sampling, max_tokens=20)
            assert await asyncio.to_thread("".join, said) == answer


class SlowEmbedder:
    """Answers once its gate is open."""

    name = "slow"

    def __init__(self) -> None:
        self.gate = threading.Event()

    def embed(self, texts: Sequence[str]) -> Any:
        assert self.gate.wait(20)
        return np.ones((len(texts), 2), dtype=np.float32)


async def test_a_slow_embedder_holds_up_neither_the_loop_nor_the_line(hill: World, tmp_path: Path) -> None:
    embedder = SlowEmbedder()
    embedder.gate.set()
    passage = Passage(id="bell", title="The bell", text="The bell rings at dusk.")
    build_lore(tmp_path / "l.db", [Document(name="a", digest="1", read=lambda: (passage,))], embedder=embedder)
    embedder.gate.clear()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    with Lore.open(tmp_path / "l.db", embedder=embedder) as lore:
        session = Session(hill.characters[0], hill, lore=lore)
        heart = asyncio.create_task(beat())
        said = session.asay("When does the bell ring?", model=Actor("At dusk."), deadline_s=0.8)
        assert "".join([piece async for piece in said]) == "At dusk."
        assert beats > 3  # the loop went on while the embedder was waited for, for a quarter of the line's time
        assert session.briefing is not None
        assert session.briefing.conversation.contexts == ("The bell rings at dusk.",)
        (note,) = session.briefing.notes
        assert re.fullmatch(r"The embedder slow did not answer within 0\.\d+ s. Lore was found by words alone.", note)
        assert session.briefing.explain().endswith(note)
        actor = Actor("Never heard.")
        task = asyncio.create_task(anext(session.asay("And the bell?", model=actor, deadline_s=2)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert actor.cancelled == len(actor.shown)  # what was begun while nobody listened any more is stopped
        heart.cancel()
        embedder.gate.set()
        assert "".join(session.say("The bell?", model=Actor("Dusk."))) == "Dusk."
        assert session.briefing.notes == ()


def test_a_card_named_for_the_narrator_knows_no_more_than_others(hill: World) -> None:
    secret = Passage(id="s", title="Secret", text="The reeve keeps the bell's key.", known_to=frozenset({"reeve"}))
    with Lore.from_documents([Document(name="a", digest="1", read=lambda: (secret,))]) as lore:
        assert lore.search("Who keeps the bell's key?", character="*")
        session = Session(Card(name="*"), lore=lore)
        assert session.conversation("Who keeps the bell's key?", max_prompt_tokens=99, count=count).contexts == ()
