"""Lore: folders of text in, one SQLite file, and the passages that answer a line out."""

from understudy.retrieval.build import BuildReport, build_lore
from understudy.retrieval.embedder import Embedder, open_embedder
from understudy.retrieval.folder import Folder, read_folder
from understudy.retrieval.index import ALL_KNOWING, Found
from understudy.retrieval.lore import Lore, LoreStats
from understudy.retrieval.passages import Document, Passage

__all__ = [
    "ALL_KNOWING",
    "BuildReport",
    "Document",
    "Embedder",
    "Folder",
    "Found",
    "Lore",
    "LoreStats",
    "Passage",
    "build_lore",
    "open_embedder",
    "read_folder",
]
