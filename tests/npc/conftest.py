import pytest

from understudy.npc.card import Card
from understudy.npc.world import LoreEntry, World, default_world


@pytest.fixture(scope="session")
def harrowmere() -> World:
    return default_world()


@pytest.fixture
def hill() -> World:
    def entry(n: int, title: str, keys: tuple[str, ...]) -> LoreEntry:
        return LoreEntry(id=f"lore-{n}", title=title, keys=keys, text=f"Text {n}.")

    return World(
        id="hill",
        name="The Hill",
        lore=(
            entry(1, "The old well", ("well", "water")),
            entry(2, "The mill", ("mill", "water")),
            entry(3, "Toll house", ("penny bridge", "toll")),
            entry(4, "Fairies of the glen", ("fairies", "water")),
        ),
        characters=(
            Card(name="Ada Fell", id="ada", role="smith", knowledge=("lore-1", "lore-2", "lore-3")),
            Card(name="Adam Stile", id="adam"),
        ),
    )
