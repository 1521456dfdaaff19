"""Generated dialogues with functions: the look-up generator's, under shuffled names, some with a question back."""

import random
from collections.abc import Iterator
from typing import Any, cast

from understudy.data.asking import ask_back
from understudy.data.lookup.generate import LookupGenerator
from understudy.data.tool_shuffle import ToolShuffler

__all__ = ["made_calls"]

Dialogue = dict[str, Any]

_ASK_SHARE = 0.5  # of the dialogues in which something can be left out


def made_calls(*, seed: int, count: int) -> Iterator[Dialogue]:
    """Dialogues around generated calls; the same seed gives the same.

    Args:
        seed: decides all of them.
        count: how many.
    """
    rng = random.Random(seed)
    generator = LookupGenerator(seed, mix={"tool": 1.0})
    records = [cast(Dialogue, generator.dialogue()) for _ in range(count)]
    shuffler = ToolShuffler(rng, (tool for record in records for tool in record["tools"]))
    for record in records:
        asked = ask_back(record, rng) if rng.random() < _ASK_SHARE else None
        yield shuffler.shuffled(asked or record)
