"""What fits into a prompt, and the reasons for the rest."""

from collections.abc import Callable, Sequence

import pytest

from understudy.errors import ContextLengthError
from understudy.npc.briefing import Briefing, Passage, fit_briefing
from understudy.prompt import Conversation, Message

SYSTEM = Message(role="system", content="You are Ada.")


def count(conversation: Conversation) -> int:
    """One token a word; the system prompt is free."""
    texts = [m.content for m in conversation.messages if m.role != "system"] + list(conversation.contexts)
    return sum(len(text.split()) for text in texts)


def passage(name: str, *, is_kept: bool = True) -> Passage:
    return Passage(source="lore", id=name, title=name.title(), text=f"{name} text", reason="words 0.9", is_kept=is_kept)


def fit(
    budget: int, *, num_exchanges: int = 4, summarise: Callable[[Sequence[Message], int], str] | None = None
) -> Briefing:
    history = [
        Message(role=role, content=f"{role} {n}") for n in range(num_exchanges) for role in ("user", "assistant")
    ]  # four words an exchange
    return fit_briefing(
        system=SYSTEM,
        line="now",
        history=history,
        turn=(),
        tools=(),
        passages=[passage("best"), passage("never", is_kept=False), passage("weak")],
        max_prompt_tokens=budget,
        count=count,
        summarise=summarise,
    )


@pytest.mark.parametrize(("budget", "exchanges"), [(5, 0), (8, 0), (9, 1), (12, 1), (13, 2), (20, 3), (21, 4), (99, 4)])
def test_the_oldest_exchanges_go_first(budget: int, exchanges: int) -> None:
    briefing = fit(budget)
    assert (briefing.num_exchanges, briefing.num_forgotten) == (exchanges, 4 - exchanges)
    assert briefing.num_prompt_tokens == count(briefing.conversation) <= budget
    assert briefing.conversation.contexts == ("best text", "weak text")
    assert briefing.conversation.messages[-1].content == "now"
    if exchanges:
        assert briefing.conversation.messages[1].content == f"user {4 - exchanges}"


def test_then_the_weakest_passages() -> None:
    briefing = fit(3)
    assert briefing.conversation.contexts == ("best text",)
    assert [(p.id, p.is_kept) for p in briefing.passages] == [("best", True), ("weak", False), ("never", False)]
    assert briefing.passages[1].reason == "no room, though words 0.9"
    assert fit(1).conversation.contexts == ()


def test_a_passage_that_goes_leaves_its_room_to_what_was_said() -> None:
    history = [Message(role="user", content="hello"), Message(role="assistant", content="hm")]
    long = Passage(source="lore", id="long", title="Long", text="word " * 20, reason="words 0.9")
    briefing = fit_briefing(
        system=SYSTEM,
        line="now",
        history=history,
        turn=(),
        tools=(),
        passages=[long],
        max_prompt_tokens=10,
        count=count,
    )
    assert (briefing.num_exchanges, briefing.num_forgotten, briefing.num_prompt_tokens) == (1, 0, 3)


def test_a_line_that_fits_nowhere() -> None:
    with pytest.raises(ContextLengthError) as caught:
        fit(0)
    assert caught.value.num_prompt_tokens == 1


def test_in_words() -> None:
    assert fit(13).explain().splitlines() == [
        "13 of 13 tokens; 2 exchanges before this one, 2 older ones left out",
        "lore Best: kept, words 0.9",
        "lore Weak: kept, words 0.9",
        "lore Never: dropped, words 0.9",
    ]


def test_what_is_forgotten_is_summed_up() -> None:
    asked: list[tuple[int, int]] = []

    def summarise(turns: Sequence[Message], max_tokens: int) -> str:
        asked.append((len(turns), max_tokens))
        return "They greeted."

    briefing = fit(400, num_exchanges=200, summarise=summarise)
    assert briefing.num_forgotten == 200 - briefing.num_exchanges > 100
    assert asked == [(2 * briefing.num_forgotten, 400 // 16 - 8)]
    assert briefing.conversation.contexts[-1] == "They greeted."
    assert briefing.num_prompt_tokens <= 400
    asked.clear()
    assert fit(400, num_exchanges=3, summarise=summarise).num_forgotten == 0
    assert asked == []
    long = fit(400, num_exchanges=200, summarise=lambda turns, max_tokens: "word " * 400)
    assert long.num_prompt_tokens <= 400
    assert len(long.conversation.contexts) == 2
