"""A lorebook as a document: V3's fields, and those of world info in each entry's `extensions`."""

import dataclasses
from typing import TYPE_CHECKING, Any

from understudy.npc.lorebook.decorators import Decorators

if TYPE_CHECKING:
    from understudy.npc.lorebook.entry import Lorebook, LorebookEntry

__all__ = ["book_data"]

_NUMBERS = {"at_depth": 4, "outlet": 7}  # world info's, of the positions that V3 has no word for
_ROLES = ("system", "user", "assistant")
_AS_THEY_ARE = {  # fields of an entry by their name in `extensions`
    "depth": "depth",
    "match_whole_words": "whole_words",
    "scan_depth": "scan_depth",
    "probability": "probability",
    "group_override": "has_group_priority",
    "group_weight": "group_weight",
    "use_group_scoring": "uses_group_scoring",
    "sticky": "sticky",
    "cooldown": "cooldown",
    "delay": "delay",
    "exclude_recursion": "exclude_recursion",
    "prevent_recursion": "prevent_recursion",
    "delay_until_recursion": "recursion_level",
}


def book_data(book: "Lorebook") -> dict[str, Any]:
    """The document of a book that was made in code, as it stands in a card or in `data` of a `lorebook_v3`."""
    head = {
        "scan_depth": book.scan_depth,
        "token_budget": book.token_budget,
        "recursive_scanning": book.is_recursive,
    }
    return {
        "name": book.name,
        **{key: value for key, value in head.items() if value is not None},
        "extensions": {},
        "entries": [_entry_data(entry) for entry in book.entries],
    }


def _entry_data(entry: "LorebookEntry") -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(entry)}
    more = {name: getattr(entry, ours) for name, ours in _AS_THEY_ARE.items() if getattr(entry, ours) != defaults[ours]}
    if entry.position in _NUMBERS:
        more["position"] = _NUMBERS[entry.position]
    if entry.role in _ROLES and entry.role != defaults["role"]:
        more["role"] = _ROLES.index(entry.role)
    if entry.logic:
        more["selectiveLogic"] = int(entry.logic)
    if entry.groups:
        more["group"] = ", ".join(entry.groups)
    data: dict[str, Any] = {
        "id": entry.id,
        "name": entry.title,
        "keys": list(entry.keys),
        "secondary_keys": list(entry.secondary_keys),
        "content": "\n".join([*_decorator_lines(entry.decorators), entry.content]),
        "enabled": entry.is_enabled,
        "constant": entry.is_constant,
        "selective": entry.is_selective,
        "use_regex": entry.uses_regex,
        "insertion_order": entry.order,
        "extensions": more,
    }
    if entry.position in ("before_char", "after_char"):
        data["position"] = str(entry.position)
    optional = {"priority": entry.priority, "case_sensitive": entry.case_sensitive}
    return data | {key: value for key, value in optional.items() if value is not None}


def _decorator_lines(decorators: Decorators) -> list[str]:
    lines = []
    for name, value in dataclasses.asdict(decorators).items():
        if name != "ignored" and value not in (None, False, ()):
            text = ", ".join(value) if isinstance(value, tuple) else "" if value is True else value
            lines.append(f"@@{name} {text}".rstrip())
        elif name != "ignored" and value == 0 and type(value) is int:
            lines.append(f"@@{name} 0")
    return [*lines, *decorators.ignored]
