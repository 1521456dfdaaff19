import random
import re
from pathlib import Path

import pytest

from understudy.data.recast import Recaster, lower_case_words
from understudy.data.sources import read_dialogues

ROOT = Path(__file__).parents[2]
TEXT = "Osric Fenn the miller, forty-two, keeps three goats and pays an aunt 120 pennies. Osric lost a red cart."


@pytest.fixture
def recaster() -> Recaster:
    return Recaster(random.Random(3), lower_case_words([TEXT]))


def test_a_word_becomes_the_same_everywhere(recaster: Recaster) -> None:
    other = recaster.recast()
    changed = other(TEXT)
    assert "Osric" not in changed and "120" not in changed
    assert other(TEXT) == changed
    names = re.findall(r"\b[A-Z][a-z]+\b", changed)
    assert names[0] == names[2]
    assert other("Osric?") == f"{names[0]}?"
    assert other("osric?") == f"{names[0].lower()}?"


def test_dialogues_differ(recaster: Recaster) -> None:
    assert len({recaster.recast()(TEXT) for _ in range(20)}) == 20


def test_two_words_never_become_one(recaster: Recaster) -> None:
    words = (
        " ".join(str(number) for number in range(2, 10)) + " two three four five six seven eight nine red blue green"
    )
    for _ in range(100):
        changed = recaster.recast()(words).split()
        assert len(set(changed)) == len(changed)
        assert sorted(changed[:8]) == [str(number) for number in range(2, 10)]


def test_articles_fit(recaster: Recaster) -> None:
    for _ in range(200):
        changed = recaster.recast()("He met an uncle and an owl and a goat.")
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou\W]", changed)


def test_answers_still_stand_in_the_prompt() -> None:
    """What a plain answer copies from the prompt, a recast one copies too."""

    def share(name: str) -> float:
        found = total = 0
        for number, record in enumerate(read_dialogues(name, ROOT)):
            if number == 400:
                break
            prompt = " ".join([record["system"], *record["context"]]).lower()
            for turn in record["turns"][1::2]:
                words = re.findall(r"[a-z]{5,}|\d+", turn["content"].lower())
                found += sum(word in prompt for word in words)
                total += len(words)
        return found / total

    assert share("worlds_recast") > share("worlds_plain") - 0.05
