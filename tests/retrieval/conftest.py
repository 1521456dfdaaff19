"""A small lore folder."""

from pathlib import Path

import pytest

FILES = {
    "river.md": "# The river Sull\n\nThe Sull is two hundred paces wide.\n\n## Floods\n\nOld Maud the bell rings.\n",
    "inn.txt": "The Dry Boot is an inn. Hettie keeps it and bakes eel pies.\n",
    "prices.csv": "name,price\nEel pie,4 pence\nRoom for a night,2 herons\n",
    "people.json": '[{"id": "pym", "title": "Sergeant Pym", "text": "Pym leads the watch.", "keys": ["captain"]}]',
    "@reeve/debts.md": "The ferrymen owe the crown nine swans.\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def lore_folder(tmp_path: Path) -> Path:
    return write(tmp_path / "lore", FILES)
