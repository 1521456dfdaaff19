"""Understudy: small language models that play game characters. What a game needs is imported from here."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.npc.lorebook import Lorebook, LorebookEntry
    from understudy.npc.memory import Memory
    from understudy.npc.model import Model
    from understudy.npc.npc import Npc, NpcOptions
    from understudy.npc.world import load_world
    from understudy.retrieval import Lore
    from understudy.tools.functions import tool

__all__ = ["Lore", "Lorebook", "LorebookEntry", "Memory", "Model", "Npc", "NpcOptions", "load_world", "tool"]

__version__ = "0.1.0"

_MODULES = {
    "Lore": "understudy.retrieval",
    "Lorebook": "understudy.npc.lorebook",
    "LorebookEntry": "understudy.npc.lorebook",
    "Memory": "understudy.npc.memory",
    "Model": "understudy.npc.model",
    "Npc": "understudy.npc.npc",
    "NpcOptions": "understudy.npc.npc",
    "load_world": "understudy.npc.world",
    "tool": "understudy.tools.functions",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the command line and the workshop need none of them."""
    if name not in _MODULES:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
