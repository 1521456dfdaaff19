"""What an operator names is opened, and only that can be asked for."""

from pathlib import Path

import pytest

from understudy.errors import LoreError
from understudy.retrieval import Document, Passage, build_lore
from understudy.server.npc_stores import NpcStores
from understudy.server.options import ServerOptions
from understudy.server.problem import Problem


def test_what_the_file_names_is_opened(tmp_path: Path) -> None:
    passage = Passage(id="bell", title="The bell", text="The bell rings at dusk.")
    build_lore(tmp_path / "town.db", [Document(name="a", digest="1", read=lambda: (passage,))])
    config = tmp_path / "serve.toml"
    config.write_text('memory = "players.db"\nsessions = "saves"\n[lore]\ntown = "town.db"\n')
    with NpcStores.open(ServerOptions.read(config)) as stores:
        assert stores.find_lore("town").search("When does the bell ring?", character="ada")
        with pytest.raises(Problem, match="there are town") as caught:
            stores.find_lore("../town.db")
        assert (caught.value.status, caught.value.param) == (404, "lore")
        stores.memory.note("Mara", "ada", "Mara paid.")
        assert stores.saves().all_of("") == []
    assert (tmp_path / "players.db").is_file()
    with pytest.raises(LoreError):
        NpcStores.open(ServerOptions(lore={"town": tmp_path / "none.db"}))


def test_without_any() -> None:
    with NpcStores() as stores:
        with pytest.raises(Problem, match="without any"):
            stores.find_lore("town")
        with pytest.raises(Problem, match="keeps no sessions") as caught:
            stores.saves()
        assert caught.value.code == "no_session_folder"
        first = stores.memory
        assert first.facts() == []
        assert stores.memory is first
