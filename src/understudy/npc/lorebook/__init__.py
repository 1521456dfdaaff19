"""Lorebooks: texts that a conversation calls up, by the rules of card V2, V3 and world info, each with its reason."""

from understudy.npc.lorebook.entry import Logic, Lorebook, LorebookEntry, Position
from understudy.npc.lorebook.outcome import EntryOutcome, LoreScan, Reason
from understudy.npc.lorebook.scan import ScanSettings, scan_lorebooks
from understudy.npc.lorebook.state import LoreState

__all__ = [
    "EntryOutcome",
    "Logic",
    "LoreScan",
    "LoreState",
    "Lorebook",
    "LorebookEntry",
    "Position",
    "Reason",
    "ScanSettings",
    "scan_lorebooks",
]
