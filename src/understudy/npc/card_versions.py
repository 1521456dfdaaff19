"""The three versions of a card's document: which one it is, where its fields are, and how one becomes another."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

from understudy.errors import CardError
from understudy.npc.fields import kind_of
from understudy.npc.lorebook.decorators import split_decorators

__all__ = [
    "OUR_KEYS",
    "OUR_NAME",
    "CardVersion",
    "backfill",
    "card_fields",
    "card_version",
    "convert_card",
]

CardVersion = Literal["v1", "v2", "v3"]

OUR_NAME = "understudy"  # under `extensions` of V2 and V3
OUR_KEYS = ("id", "role", "speech_style", "knowledge", "goals", "secret", "tools")
_CONTENT = "understudy/content"  # an entry's text with the decorators that a V2 reader would show to the model
_NOTICE = "This card is of version 3; this copy of version 2 is for older programs. Use the other one where you can."
_V1_TEXTS = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
_V2_TEXTS = ("creator_notes", "system_prompt", "post_history_instructions", "creator", "character_version")
_V2_DEFAULTS: Mapping[str, Any] = {
    **dict.fromkeys((*_V1_TEXTS, *_V2_TEXTS), ""),
    "alternate_greetings": [],
    "tags": [],
    "extensions": {},
}


def card_version(document: Mapping[str, Any]) -> CardVersion:
    """Which version a card's document is of."""
    return {"chara_card_v2": "v2", "chara_card_v3": "v3"}.get(document.get("spec", ""), "v1")  # type: ignore[return-value]


def card_fields(document: Any, source: str) -> Mapping[str, Any]:
    """The object that holds a card's fields.

    Raises:
        CardError: it is no card, or of an unknown kind.
    """
    if not isinstance(document, dict):
        raise CardError(f"{source} must be a JSON object {{...}}, not {kind_of(document)}.")
    spec = document.get("spec")
    if spec is None:
        if isinstance(document.get("data"), dict) and "name" not in document:
            raise CardError(f'{source} has "data" but no "spec"; expected "spec": "chara_card_v2" or "chara_card_v3".')
        return document
    if spec not in ("chara_card_v2", "chara_card_v3"):
        raise CardError(f"{source} says spec {spec!r}; expected 'chara_card_v2' or 'chara_card_v3', or none (V1).")
    version = document.get("spec_version", spec[-1])
    try:
        is_known = float(version) >= int(spec[-1])
    except (TypeError, ValueError, OverflowError):
        is_known = False
    if not is_known:
        raise CardError(f'{source} says spec_version {version!r}; expected "{spec[-1]}.0" with spec {spec!r}.')
    data = document.get("data")
    if not isinstance(data, dict):
        raise CardError(f'{source}: "data" must be an object {{...}} with the card\'s fields, not {kind_of(data)}.')
    return data


def convert_card(document: Mapping[str, Any], version: CardVersion) -> dict[str, Any]:
    """Turn a card's document into another version; no field is lost, and converting back gives the same fields.

    What a version does not know stays as an unknown field of it. Fields that it demands are added, empty. Fields of
    our own (`OUR_KEYS`) stand beside the others in V1, and under `extensions` in V2 and V3. In V2 the decorators of
    lorebook entries move to the entry's `extensions`, where no old program shows them to its model.

    Raises:
        CardError: there is no such version, or the document is no card.
    """
    if version not in get_args(CardVersion):
        raise CardError(f"There is no card version {version!r}. Choose one of {', '.join(get_args(CardVersion))}.")
    own = card_version(document)
    if own == version == "v1":
        return copy.deepcopy(dict(document))
    data = copy.deepcopy(dict(card_fields(document, "The card")))
    around = {} if own == "v1" else {k: v for k, v in document.items() if k not in ("spec", "spec_version", "data")}
    if version == "v1":
        return {**copy.deepcopy(around), **_flat(data)}
    defaults = copy.deepcopy(dict(_V2_DEFAULTS))
    data = {**defaults, **{k: v for k, v in data.items() if v is not None or k not in defaults}}
    if own == "v1":
        _nest(data)
    if version == "v3":
        data.setdefault("group_only_greetings", [])
    if own == version:
        return {**document, "data": data}
    _convert_book(data, version)
    number = version[1]
    return {**around, "spec": f"chara_card_v{number}", "spec_version": f"{number}.0", "data": data}


def backfill(document: Mapping[str, Any]) -> dict[str, Any]:
    """A V2 copy of a V3 card for programs that know no V3; its notes say so."""
    copied = convert_card(document, "v2")
    notes = copied["data"].get("creator_notes") or ""
    copied["data"]["creator_notes"] = f"{_NOTICE}\n\n{notes}".strip()
    return copied


def _nest(data: dict[str, Any]) -> None:
    """Our own fields go where the specification wants an application's data."""
    ours = {key: data[key] for key in OUR_KEYS if key in data}
    if ours and isinstance(data["extensions"], dict) and OUR_NAME not in data["extensions"]:
        data["extensions"][OUR_NAME] = ours
        for key in ours:
            del data[key]


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """The other way."""
    extensions = data.get("extensions")
    ours = extensions.get(OUR_NAME) if isinstance(extensions, dict) else None
    if isinstance(ours, dict) and ours.keys() <= set(OUR_KEYS) - data.keys():
        del extensions[OUR_NAME]  # type: ignore[union-attr]
        data.update(ours)
    _convert_book(data, "v1")
    return data


def _convert_book(data: dict[str, Any], version: CardVersion) -> None:
    book = data.get("character_book")
    entries = book.get("entries") if isinstance(book, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            continue
        if version == "v2":
            _hide_decorators(entry)
        else:
            _show_decorators(entry)
        if version == "v3":
            entry.setdefault("use_regex", False)


def _hide_decorators(entry: dict[str, Any]) -> None:
    lines, text = split_decorators(entry["content"])
    extensions = entry.setdefault("extensions", {})
    if lines and isinstance(extensions, dict):
        extensions[_CONTENT] = entry["content"]
        entry["content"] = text


def _show_decorators(entry: dict[str, Any]) -> None:
    extensions = entry.get("extensions")
    whole = extensions.get(_CONTENT) if isinstance(extensions, dict) else None
    if isinstance(whole, str) and split_decorators(whole)[1] == entry["content"]:  # else it was edited since
        del extensions[_CONTENT]  # type: ignore[union-attr]
        entry["content"] = whole
