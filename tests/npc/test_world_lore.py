from understudy.npc.world import World
from understudy.npc.world_lore import open_world_lore, world_documents


def test_each_knows_what_its_card_says(harrowmere: World) -> None:
    lore = open_world_lore(harrowmere)
    for card in harrowmere.characters:
        found = {
            one.id
            for entry in harrowmere.lore
            for one in lore.search(entry.title, character=card.id, limit=50, min_score=0)
        }
        assert found == set(card.knowledge)


def test_those_without_knowledge_know_all(hill: World) -> None:
    known_to = {passage.id: passage.known_to for document in world_documents(hill) for passage in document.read()}
    assert known_to == {"lore-1": None, "lore-2": None, "lore-3": None, "lore-4": {"adam"}}


def test_the_digest_tells_of_every_change(hill: World) -> None:
    digests = [document.digest for document in world_documents(hill)]
    assert len(set(digests)) == 4
    assert [document.digest for document in world_documents(hill)] == digests
