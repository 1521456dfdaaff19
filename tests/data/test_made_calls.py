import itertools

from understudy.data.made_calls import made_calls


def test_a_seed_makes_the_same_dialogues() -> None:
    made = list(made_calls(seed=5, count=40))
    assert made == list(made_calls(seed=5, count=40))
    names = {tool["function"]["name"] for one in made for tool in one["tools"]}
    assert len(names) > 40
    for one in made:
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in one["tools"]}
        called = [call for turn in one["turns"] for call in turn.get("tool_calls", ())]
        assert all(set(call["arguments"]) <= set(known[call["name"]]["properties"]) for call in called)
        assert all(a["role"] != b["role"] or a["role"] == "tool" for a, b in itertools.pairwise(one["turns"]))


def test_some_characters_ask_before_they_call() -> None:
    calls = asked = 0
    for one in made_calls(seed=6, count=60):
        for number, turn in enumerate(one["turns"]):
            before = one["turns"][max(0, number - 2)]
            calls += bool(turn.get("tool_calls"))
            asked += bool(turn.get("tool_calls")) and before["role"] == "assistant" and before["content"].endswith("?")
    assert 0.08 < asked / calls < 0.3
