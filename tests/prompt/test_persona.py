import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.npc.world import default_world, load_world
from understudy.prompt.persona import Persona, persona_prompt

WORLDS = Path(__file__).parents[2] / "worlds"
FOLDERS = sorted(path.parent for path in WORLDS.glob("*/characters.json"))


def described(text: str, **fields: str) -> str:
    prompt = persona_prompt(Persona(name="Ada Fell", description=text, **fields))
    return prompt.removeprefix("You are Ada Fell. ")


def test_innkeeper_of_the_sample_world() -> None:
    card = default_world().characters[0]
    assert card.instructions("traveller", place="Harrowmere") == (
        "You are Hettie Marlpit, innkeeper of the Dry Boot in Harrowmere. You are a round, quick woman of fifty-three "
        "with flour to the elbows and a bunch of keys you can identify by sound. You were twelve on the night of the "
        "Great Rise and were carried up the Wet Stair on a stranger's back. You are warm, nosy, generous with soup "
        "and strict about boots; you remember every guest and every unpaid bill. How you speak: motherly and brisk. "
        "You call people love or duck. You mix gossip with orders. You feed first, ask afterwards. The player comes "
        "into the taproom of the Dry Boot out of the rain, just before supper."
    )


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("She keeps her keys.", "You keep your keys."),
        ("She was twelve and is glad that she has lived.", "You were twelve and are glad that you have lived."),
        ("He never sleeps, and watches the gate himself.", "You never sleep, and watch the gate yourself."),
        ("She tallies, goes home and does nothing.", "You tally, go home and do nothing."),
        ("She doesn't drink; the cellar is hers.", "You don't drink; the cellar is yours."),
        ("She's tired. She's been awake since noon.", "You're tired. You've been awake since noon."),
        ("The town gave her a medal.", "The town gave you a medal."),
        ("Nobody has ever made her cry.", "Nobody has ever made you cry."),
        ("She said so that her spelling is bad.", "You said so that your spelling is bad."),
        ("She has a dog who sleeps and barks.", "You have a dog who sleeps and barks."),
        ("She met her husband when he was king.", "You met your husband when he was king."),
        ("Ada Fell is 31. Fell sleeps in Ada's chair.", "You are 31. You sleep in your chair."),
        ("She lives beside Fell's Yard.", "You live beside Fell's Yard."),
        ("Forty-one, tall. She reads.", "You are forty-one, tall. You read."),
        ("Born at sea. She hates it.", "You were born at sea. You hate it."),
        ("Her mother drowned. She learned from her.", "Your mother drowned. You learned from her."),
        ("They keep bees. They have their own honey.", "You keep bees. You have your own honey."),
        ("He talks of boats as she.", "You talk of boats as she."),
        ("She once told you a lie.", "You once told others a lie."),
        ('She said "No." She left.', 'You said "No." You left.'),
        ("You are a ghost and she is not.", "You are a ghost and she is not."),
        ("The Tower\n\n- stands [here]", "The Tower\n\n- stands [here]"),
        ("A storm rages over the hill.", "A storm rages over the hill."),
    ],
)
def test_description_in_the_second_person(told: str, expected: str) -> None:
    assert described(told) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"personality": "Calm; hates noise"}, "You are calm; you hate noise."),
        ({"personality": "Calm, wary, laughs rarely."}, "You are calm, wary; you laugh rarely."),
        ({"personality": "Never forgets. Kind to dogs."}, "You never forget. Kind to dogs."),
        ({"personality": "She is calm."}, "You are calm."),
        ({"speech_style": "Low and slow. Calls people pet."}, "How you speak: low and slow. You call people pet."),
        ({"speech_style": "Low, drops words."}, "How you speak: low; you drop words."),
        (
            {"speech_style": "Orders, numbers and short questions"},
            "How you speak: orders, numbers and short questions.",
        ),
        ({"speech_style": "Never raises her voice."}, "You never raise your voice."),
        ({"scenario": "The player meets her by the gate"}, "The player meets you by the gate."),
        ({"scenario": "The player waits while Ada sings."}, "The player waits while you sing."),
    ],
)
def test_manner_and_scenario(fields: dict[str, str], expected: str) -> None:
    assert described("", **fields) == expected


@pytest.mark.parametrize(
    ("role", "place", "expected"),
    [
        ("", "", "You are Ada Fell."),
        ("smith", "", "You are Ada Fell, smith."),
        ("smith", "Low Weir", "You are Ada Fell, smith in Low Weir."),
        ("mayor of Low Weir", "Low Weir", "You are Ada Fell, mayor of Low Weir."),
        ("smith, retired", "The Reach", "You are Ada Fell, smith, retired, in the Reach."),
        ("", "Low Weir", "You are Ada Fell, of Low Weir."),
    ],
)
def test_head(role: str, place: str, expected: str) -> None:
    assert persona_prompt(Persona(name="Ada Fell", role=role, place=place)) == expected


def test_long_descriptions_lose_their_end() -> None:
    text = " ".join(f"She has {n} cats." for n in range(100))
    persona = Persona(name="Ada Fell", description=text, personality="Calm", scenario="The player knocks.")
    prompt = persona_prompt(persona)
    assert prompt.startswith("You are Ada Fell. You have 0 cats. You have 1 cats.")
    assert prompt.endswith("cats. You are calm. The player knocks.")
    assert 120 < len(prompt.split()) <= 130
    assert len(persona_prompt(persona, max_words=300).split()) > 280


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_all_worlds_read_well(folder: Path) -> None:
    world = load_world(folder)
    for card in world.characters:
        prompt = card.instructions("traveller", place=world.name)
        assert prompt.startswith(f"You are {card.name}, ")
        assert 60 < len(prompt.split()) <= 130
        assert re.search(r"\b[Yy]ou (?:is|was|has|does|keeps|knows|takes|never \w+s)\b", prompt) is None
        assert re.search(r"\b(?:She|He) ", prompt) is None


@given(st.text(max_size=200), st.text(max_size=40), st.text(max_size=200))
def test_any_text_is_rendered(text: str, name: str, other: str) -> None:
    persona = Persona(name=name, description=text, personality=other, speech_style=text, scenario=other)
    assert persona_prompt(persona) == persona_prompt(persona)
    assert persona_prompt(persona).startswith(f"You are {name}")
