"""What is wrong with a card or lorebook that can be read, and how to mend it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from understudy.errors import CardError
from understudy.npc.card import Card
from understudy.npc.card_file import read_card_file
from understudy.npc.card_versions import card_fields
from understudy.npc.lorebook import Lorebook, LorebookEntry, Position
from understudy.npc.lorebook.decorators import DECORATOR_NAMES
from understudy.npc.lorebook.keys import pattern_problem
from understudy.npc.macros import unknown_macros

__all__ = ["Problem", "check_card", "check_file", "check_lorebook"]

_MAX_PERSONA_WORDS = 1500
_SHOWN = ("description", "personality", "scenario", "first_mes", "system_prompt", "post_history_instructions")
_V2_FIELDS = (*_SHOWN, "mes_example", "creator_notes", "alternate_greetings", "tags", "creator", "character_version")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that will not do what its author expects.

    Attributes:
        where: the field.
        text: what is wrong.
        mend: what to do.
    """

    where: str
    text: str
    mend: str


def check_file(path: Path) -> list[Problem]:
    """Look over a card of any kind, or a lorebook's JSON.

    Raises:
        CardError: it is neither.
    """
    document = read_card_file(path).document
    if isinstance(document, dict) and ("entries" in document or document.get("spec") == "lorebook_v3"):
        return check_lorebook(Lorebook.from_json(document, source=f"The lorebook {path}"))
    return check_card(Card.load(path))


def check_card(card: Card) -> list[Problem]:
    """Look a card over: fields, macros, assets, lorebook. One that cannot be read raises when it is loaded."""
    found = [*_fields(card), *_macros(card), *_assets(card)]
    return found + (check_lorebook(card.lorebook) if card.lorebook else [])


def check_lorebook(book: Lorebook) -> list[Problem]:
    """Look a lorebook over: entries that never come, or do not say what they seem to."""
    found = [problem for entry in book.entries for problem in _entry(entry, f"entry {entry.title or entry.id!r}")]
    if book.token_budget == 0:
        found.append(
            Problem(where="lorebook", text="its token_budget is 0: nothing comes in", mend="raise it, or take it out")
        )
    return found


def _fields(card: Card) -> Iterator[Problem]:
    if not any((card.description, card.personality, card.role, card.system_prompt)):
        yield Problem(where="description", text="nothing says who the character is", mend="write a few sentences")
    if not card.first_mes.strip():
        yield Problem(where="first_mes", text="there is no greeting", mend="write what the character says first")
    words = sum(len(getattr(card, key).split()) for key in ("description", "personality", "scenario", "system_prompt"))
    if words > _MAX_PERSONA_WORDS:
        yield Problem(
            where="description",
            text=f"the persona has {words} words; little is left of the model's context",
            mend=f"shorten it to {_MAX_PERSONA_WORDS}, or move parts into the lorebook",
        )
    if card.version == "v1":
        return
    data = card_fields(card.raw, "The card")
    missing = [key for key in (*_V2_FIELDS, "extensions") if key not in data]
    if card.version == "v3" and "group_only_greetings" not in data:
        missing.append("group_only_greetings")
    if missing:
        yield Problem(
            where="data",
            text=f"{card.version.upper()} demands {', '.join(missing)}; strict programs refuse the card",
            mend=f"understudy card convert --to {card.version} adds them, empty",
        )
    version = str(card.raw.get("spec_version", ""))
    if version not in ("2.0", "3.0"):
        yield Problem(where="spec_version", text=f"it is {version!r}, not known here", mend="look for unread fields")


def _macros(card: Card) -> Iterator[Problem]:
    texts = {key: getattr(card, key) for key in _SHOWN}
    texts |= {f"alternate_greetings {number}": text for number, text in enumerate(card.alternate_greetings)}
    for where, text in texts.items():
        for name in unknown_macros(text):
            yield Problem(
                where=where,
                text=f"the macro {{{{{name[:40]}}}}} is not known and is shown as it stands",
                mend="take it out, or write what it stands for",
            )


def _assets(card: Card) -> Iterator[Problem]:
    mains = [asset for asset in card.assets if asset.type == "icon" and asset.name == "main"]
    icons = [asset for asset in card.assets if asset.type == "icon"]
    if len(mains) > 1 or (len(icons) > 1 and not mains):
        yield Problem(where="assets", text=f"{len(mains)} icons are named main", mend="name exactly one so")
    for asset in card.assets:
        if asset.uri.startswith(("http:", "https:")):
            yield Problem(
                where="assets", text=f"{asset.uri[:60]} is not in the card", mend="put the file into a .charx"
            )
        elif asset.uri != "ccdefault:":
            try:
                card.asset(asset)
            except CardError as error:
                yield Problem(where="assets", text=str(error), mend="put the file in, or take the asset out")
    odd = sorted(name for name in card.files if not name.isascii())
    if odd:
        yield Problem(where="files", text=f"{odd[0]!r} is not ASCII; some programs cannot read it", mend="rename it")


def _entry(entry: LorebookEntry, where: str) -> Iterator[Problem]:
    def problem(text: str, mend: str) -> Problem:
        return Problem(where=where, text=text, mend=mend)

    says = entry.decorators
    keys = [key for key in (*entry.keys, *says.additional_keys) if key.strip()]
    is_constant = entry.is_constant and not entry.uses_regex
    if not entry.content.strip():
        yield problem("it has no text and never comes in", "write one, or take the entry out")
    elif not keys and not (is_constant or says.activate or entry.sticky):
        yield problem("it has no keys and never comes in", "give it keys, or make it constant")
    for key in (*keys, *entry.secondary_keys, *says.exclude_keys):
        if why := pattern_problem(key, is_regex=entry.uses_regex):
            yield problem(f"the pattern {key[:60]} never matches: {why}", "write it without, or use plain words")
    if entry.probability == 0:
        yield problem("its probability is 0: it never comes in", "raise it, or disable the entry")
    if entry.position is Position.OUTLET:
        yield problem("it waits for an outlet, which is not supported", "give it another position")
    if entry.uses_regex and entry.secondary_keys:
        yield problem("its secondary keys do not count beside use_regex", "put them into the pattern")
    elif entry.secondary_keys and not entry.is_selective:
        yield problem("its secondary keys do not count without selective", "set selective to true")
    for line in says.ignored:
        known = line.lstrip("@").partition(" ")[0] in DECORATOR_NAMES
        yield problem(
            f"the decorator {line[:60]} {'has a wrong value or is for plain text' if known else 'is not known'}",
            "mend it, or take the line out",
        )
    for name in unknown_macros(entry.content):
        yield problem(f"the macro {{{{{name[:40]}}}}} is not known and is shown as it stands", "take it out")
