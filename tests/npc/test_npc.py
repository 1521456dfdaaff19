"""The object that a game holds: it speaks from any thread, explains itself, and goes on after a restart."""

import asyncio
import gc
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import understudy
from understudy.engine import SamplingParams
from understudy.errors import CardError, RequestError, SaveError
from understudy.npc.card import Card
from understudy.npc.memory import Memory
from understudy.npc.model import Model
from understudy.npc.npc import Npc, NpcOptions
from understudy.npc.world import default_world
from understudy.tools.loop import Event, Finished, Spoken

LINES = ("Good evening!", "What can I eat here?", "And what does it cost?")
WILD = NpcOptions(sampling=SamplingParams(temperature=1.0), max_tokens=12)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.load() as loaded:
        yield loaded


def talk(npc: Npc, lines: tuple[str, ...] = LINES) -> list[str]:
    return [npc.say(line).text() for line in lines]


def test_it_speaks_and_remembers(model: Model) -> None:
    npc = model.npc("hettie", player="Mara", options=NpcOptions(max_tokens=8), seed=1)
    assert npc.greeting
    pieces = list(npc.say(LINES[0]))
    assert len(pieces) > 1
    assert [(m.role, m.content) for m in npc.history] == [("user", LINES[0]), ("assistant", "".join(pieces))]
    assert npc.card.name.startswith("Hettie")


def test_one_seed_one_conversation(model: Model) -> None:
    one, same, other = (talk(model.npc("hettie", options=WILD, seed=seed)) for seed in (5, 5, 6))
    assert one == same
    assert one != other
    assert one[0] != one[1]  # each line has a seed of its own


def test_an_event_loop_hears_the_same(model: Model) -> None:
    async def hear() -> list[str]:
        npc = model.npc("hettie", options=WILD, seed=5)
        return ["".join([piece async for piece in npc.asay(line)]) for line in LINES]

    assert asyncio.run(hear()) == talk(model.npc("hettie", options=WILD, seed=5))


def test_many_threads_change_nobodys_words(model: Model) -> None:
    names = ("hettie", "minnow", "gunna", "hettie")
    alone = [talk(model.npc(name, options=WILD, seed=n), LINES[:2]) for n, name in enumerate(names)]
    together: list[list[str]] = [[] for _ in names]

    def speak(n: int) -> None:
        together[n] = talk(model.npc(names[n], options=WILD, seed=n), LINES[:2])

    threads = [threading.Thread(target=speak, args=(n,)) for n in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_no_trace_of_a_line(model: Model) -> None:
    npc = model.npc("hettie", options=WILD, seed=2)
    talk(npc, LINES[:1])
    before = (npc.history, npc.session.lore_state)
    assert npc.say("My secret name is Corvin.", remember=False).text()
    assert (npc.history, npc.session.lore_state) == before
    npc.say("Who am I?").close()
    assert "Corvin" not in str(npc.why())


def test_no_trace_of_a_line_in_a_file(model: Model, tmp_path: Path) -> None:
    npc = model.npc("hettie", options=WILD, seed=2)
    talk(npc, ("Good evening!",))
    npc.say("Tell me about the Dry Boot inn.", remember=False).text()
    why = npc.why()
    assert why is not None
    assert why.conversation.contexts
    npc.save(tmp_path / "a.npc", with_kv=True, kv_share=None)
    with zipfile.ZipFile(tmp_path / "a.npc") as archive:
        kept = json.loads(archive.read("state.json"))["kv"]
    text = model.files.tokenizer.decode(kept["token_ids"])
    assert why.conversation.contexts[0][:20] not in text


def test_one_line_at_a_time(model: Model) -> None:
    npc = model.npc("hettie", options=WILD, seed=2)
    first = npc.say(LINES[0])
    next(first)
    with pytest.raises(RequestError, match="Hettie Marlpit is still speaking"):
        npc.say(LINES[1])
    with pytest.raises(RequestError, match="still speaking"):
        npc.save(Path("nowhere"))
    first.close()
    first.close()
    assert npc.say(LINES[1]).text()
    npc.say(LINES[2])  # abandoned, unread
    gc.collect()
    assert npc.say(LINES[2]).text()


def test_an_answer_closed_unread_stops_the_model(model: Model) -> None:
    npc = model.npc("hettie", options=WILD, seed=2)
    npc.say(LINES[0]).close()
    assert [generation.finish_reason for _, generation in npc.session.asked] == ["cancelled"]
    assert npc.history == ()


def test_another_thread_may_close_an_answer(model: Model) -> None:
    npc = model.npc("hettie", options=NpcOptions(sampling=WILD.sampling, max_tokens=400), seed=2)
    answer = npc.say(LINES[0])
    heard = [next(answer)]
    reader = threading.Thread(target=lambda: heard.extend(answer))
    reader.start()
    answer.close()
    assert npc.say(LINES[1]).text()  # all is over when it returns
    reader.join(30)
    assert "".join(heard).strip() == npc.history[-3].content.strip()


def test_a_hook_may_close_its_answer(model: Model) -> None:
    npc = model.npc("hettie", options=WILD, seed=2)
    answer = npc.say(LINES[0], on_event=lambda _: answer.close())
    assert list(answer) == []
    assert npc.say(LINES[1]).text()


def test_a_line_that_fails_lets_the_next_one_in(model: Model) -> None:
    npc = model.npc("hettie", options=WILD, seed=2)
    with pytest.raises(RequestError, match="context"):
        npc.say("long " * 6000)
    assert npc.say(LINES[0]).text()


def test_who_is_late_says_a_scripted_line(model: Model) -> None:
    options = NpcOptions(deadline_s=1e-6, fallback=("Hm.", "One moment."))
    npc = model.npc("hettie", options=options, seed=3)
    assert npc.say(LINES[0]).text() == "Hm."
    assert [m.content for m in npc.history] == [LINES[0], "Hm."]
    assert npc.say(LINES[1], remember=False).text() == "Hm."
    assert len(npc.history) == 2

    async def hear() -> str:
        return "".join([piece async for piece in npc.asay(LINES[1])])

    assert asyncio.run(hear()) == "Hm."
    assert len(npc.history) == 4
    assert npc.say(LINES[2], deadline_s=600).text() not in ("Hm.", "One moment.")
    heard: list[Event] = []
    own = NpcOptions(deadline_s=1e-6, fallback=("Later.",))
    assert npc.say(LINES[2], options=own, on_event=heard.append).text() == "Later."
    assert heard == [Finished("", "answered"), Spoken("Later.")]
    before = npc.history
    assert npc.say(LINES[2], options=NpcOptions(deadline_s=1e-6, fallback=None)).text() == ""
    assert npc.history == before


def test_who_is_late_has_heard_all_the_same(model: Model) -> None:
    with Memory.open(None) as memory:
        npc = model.npc("hettie", memory=memory, options=NpcOptions(deadline_s=1e-6), seed=3)
        assert npc.say("I owe you three coppers.").text() == "..."
        assert [fact.kind for fact in memory.facts()] == ["debt"]


@pytest.mark.parametrize("options", [{"deadline_s": 0.0}, {"fallback": ()}, {"fallback": ("",)}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        NpcOptions(**options)


@pytest.mark.parametrize("with_kv", [False, True])
def test_saved_and_gone_on_with(tmp_path: Path, with_kv: bool) -> None:
    path = tmp_path / "evening.npc"
    with Model.load() as model:
        npc = model.npc("hettie", player="Mara", options=WILD, seed=9)
        talk(npc, LINES[:2])
        planned = npc.saved_size(with_kv=with_kv, kv_share=None).total_bytes
        assert 0 < npc.save(path, with_kv=with_kv, kv_share=None) == path.stat().st_size <= planned
        expected = npc.say(LINES[2]).text()
    with Model.load() as model:
        again = model.npc_from(path, options=WILD)
        assert again.session.player == "Mara"
        read_before = model.engine.stats().prefilled_tokens
        assert again.say(LINES[2]).text() == expected
        read = model.engine.stats().prefilled_tokens - read_before
        prompt = again.session.num_prompt_tokens
    assert read < prompt / 2 if with_kv else read == prompt


def test_a_file_holds_a_share_of_what_was_read(tmp_path: Path) -> None:
    """The larger the share, the less is read again; what is said next is the same."""
    shares: tuple[float | None, ...] = (0.01, 0.4, 1.0, None)
    with Model.load() as model:
        card = default_world().characters[
            0
        ]  # not in its world, whose lore for a line may change the prompt's beginning
        npc = model.npc(card, player="Mara", options=WILD, seed=9)
        talk(npc, 3 * LINES)
        text_bytes = npc.save(tmp_path / "text")
        sizes = [npc.save(tmp_path / f"{share}", with_kv=True, kv_share=share) - text_bytes for share in shares]
        planned = [npc.saved_size(with_kv=True, kv_share=share).kv_bytes for share in shares]
        assert npc.save(tmp_path / "usual", with_kv=True) - text_bytes == sizes[1]
        for share in (0, -1.0, float("nan")):
            with pytest.raises(RequestError, match="kv_share"):
                npc.save(tmp_path / "wrong", with_kv=True, kv_share=share)
            with pytest.raises(RequestError, match="kv_share"):
                npc.saved_size(with_kv=True, kv_share=share)
        expected = npc.say(LINES[2]).text()
    assert not (tmp_path / "wrong").exists()
    assert all(0 <= size <= most for size, most in zip(sizes, planned, strict=True))
    assert planned[1] == pytest.approx(0.4 * planned[2], abs=1)
    assert planned[1] / 2 < sizes[1] < planned[2] / 2 < sizes[2] < sizes[3]
    read = []
    for share in shares:
        with Model.load() as model:
            again = model.npc_from(tmp_path / f"{share}", options=WILD)
            assert again.say(LINES[2]).text() == expected
            read.append(model.engine.stats().prefilled_tokens)
    assert read[0] > read[1] > read[2] > read[3]


def test_a_warm_character_reads_only_what_is_new() -> None:
    with Model.load() as model:
        npc = model.npc("hettie", options=WILD, seed=9)
        npc.warm().text()
        read_before = model.engine.stats().prefilled_tokens
        npc.say("Hm?").text()
        assert model.engine.stats().prefilled_tokens - read_before < 20
        asyncio.run(npc.awarm())
        read_before = model.engine.stats().prefilled_tokens
        npc.say("Ah.").text()
        assert model.engine.stats().prefilled_tokens - read_before < 20


def test_a_long_conversation_is_warmed_as_far_as_it_fits() -> None:
    with Model.load() as model:
        npc = model.npc("hettie", options=WILD, seed=9)
        for _ in range(60):
            npc.session.commit("I walked along the river and saw the boats." * 4, "The river is wide." * 10)
        npc.warm().text()
        read = model.engine.stats().prefilled_tokens
        assert 100 < read < 1000
        npc.say("Hm?").text()
        assert npc.session.num_prompt_tokens > 3 * read


def test_why(model: Model) -> None:
    book = {
        "name": "ferry",
        "entries": [
            {"keys": ["ferry"], "content": "The ferry leaves at dawn.", "extensions": {"sticky": 3}},
            {"keys": ["bridge"], "content": "There is no bridge."},
        ],
    }
    card = {"spec": "chara_card_v2", "spec_version": "2.0", "data": {"name": "Pell", "character_book": book}}
    npc = model.npc(Card.from_json(card), options=WILD, seed=1)
    assert npc.why() is None
    npc.say("When does the ferry leave?").text()
    why = npc.why()
    assert why is not None
    assert why.conversation.contexts == ("The ferry leaves at dawn.",)
    assert why.num_prompt_tokens == npc.session.num_prompt_tokens
    told = why.explain()
    assert 'lorebook 0: kept, key "ferry"' in told
    assert "lorebook 1: dropped, none of its keys" in told
    npc.say("Fine.").text()
    why = npc.why()
    assert why is not None
    assert why.conversation.contexts == ("The ferry leaves at dawn.",)  # it stays for three messages
    assert npc.session.to_json()["lore_state"]["timers"]


def test_facts_about_the_player_outlive_the_conversation(model: Model, tmp_path: Path) -> None:
    with Memory.open(tmp_path / "lore.db") as memory:
        npc = model.npc("hettie", player="Mara", memory=memory, options=WILD, seed=1)
        npc.say("My brother is a glazier in Thornhallow.", remember=False).text()
        assert memory.facts() == []
        npc.say("I owe you three coppers.").text()
        assert [fact.kind for fact in memory.facts("Mara", "hettie")] == ["debt"]
    with Memory.open(tmp_path / "lore.db") as memory:
        later = model.npc("hettie", player="Mara", memory=memory, options=WILD, seed=1)
        later.say("Good evening!").text()
        why = later.why()
        assert why is not None
        assert 'Mara said: "I owe you three coppers' in why.conversation.contexts[0]
        other = model.npc("minnow", player="Mara", memory=memory, options=WILD, seed=1)
        other.say("Good evening!").text()
        assert "coppers" not in str(other.session.briefing.conversation if other.session.briefing else "")


def test_who_is_not_there(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no character 'nobody'"):
        model.npc("nobody")
    with pytest.raises(CardError):
        model.npc(tmp_path / "none.png")
    with pytest.raises(SaveError, match="Cannot read"):
        model.npc_from(tmp_path / "none.npc")


def test_the_page_on_characters_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "characters.md"
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []
    code = page.read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, str(page), "exec"), {"print": lambda text, **_: shown.append(text)})
    assert shown[-1].strip()
    assert (tmp_path / "hettie.npc").stat().st_size > 10_000


def test_one_import_for_a_game() -> None:
    assert all(callable(getattr(understudy, name)) for name in understudy.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Modle'"):
        understudy.Modle  # noqa: B018
