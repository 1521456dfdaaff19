"""A folder of corpora with a few short stories in it."""

import json
from pathlib import Path

__all__ = ["write_stories"]

_STORY = "The fox ran over the hill. The hen looked up and said: good evening, fox. Nobody was hungry that day.\n\n"


def write_stories(folder: Path, *, count: int) -> Path:
    """Write the source `storybooks` into a folder of corpora, and return the folder."""
    (folder / "pretrain").mkdir()
    records = [{"title": f"Tale {n}", "text": _STORY * (3 + n % 4)} for n in range(count)]
    text = "\n".join(json.dumps(record) for record in records)
    (folder / "pretrain" / "storybooks_ccby.jsonl").write_text(text, encoding="utf-8")
    return folder
