"""Renders every template of the content once, to find mistakes in the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .content import Ask, Fact, Templates
from .drills import DrillKit
from .scene import Content
from .text import Template, sentence_case
from .tooluse import Tool, fill

__all__ = ["validate"]

_COMMON = {"name": "Ada Ashwick", "first": "Ada", "role": "baker", "place": "Low Weir", "player": "Bren"}


def validate(content: Content, drills: DrillKit) -> int:
    """Renders all templates.

    Args:
        content: the compiled content.
        drills: the compiled drills.

    Returns:
        How many templates were rendered.

    Raises:
        ValueError: if a rendered text has a brace left or an answer lacks its value.
    """
    count = 0
    for fact in content.persona.facts:
        count += _fact(fact, _COMMON, f"facts_persona.json:{fact.id}")
    for group in content.lore.groups:
        for fact in group.facts:
            env = {**_COMMON, "subject": group.subject()}
            count += _fact(fact, env, f"facts_lore.json:{fact.id}")
    for tell in content.tells:
        env = {**_COMMON, **{slot: make() for slot, make in tell.slots}}
        where = f"recall.json:{tell.id}"
        count += _render((*tell.tells, *tell.reactions, *tell.questions, *tell.answers), env, where)
    for small in content.small:
        env = {**_COMMON, **{slot: make() for slot, make in small.slots}}
        count += _render((*small.questions, *small.answers), env, f"smalltalk.json:{small.id}")
    for tool in content.tools.tools:
        count += _tool(tool, {**_COMMON, **content.tools.values(tool)})
    for ledger in drills.ledgers:
        env = {"k": ledger.key(), "v": ledger.value()}
        count += _render(ledger.lines, env, f"drills.json:{ledger.id}")
        for ask in (ledger.forward, ledger.backward):
            count += _ask(ask, env, f"drills.json:{ledger.id}")
    return count


def _render(templates: Iterable[Template], env: Mapping[str, str], where: str) -> int:
    count = 0
    for count, one in enumerate(templates, 1):  # noqa: B007
        text = sentence_case(one.render(env))
        if "{" in text or "}" in text or not text:
            raise ValueError(f"{where}: {one.source!r} gives {text!r}")
    return count


def _ask(ask: Ask, env: Mapping[str, str], where: str) -> int:
    value = env[ask.slot].lower()
    for one in ask.answers:
        if value not in one.render(env).lower():
            raise ValueError(f"{where}: the answer {one.source!r} lacks {{{ask.slot}}}")
    return _render((*ask.questions, *ask.answers), env, where)


def _fact(fact: Fact, common: Mapping[str, str], where: str) -> int:
    env = {**common, **fact.values()}
    slots = {slot for slot, _ in fact.slots}
    if not any(slots <= one.needs for one in fact.statements):
        raise ValueError(f"{where}: no statement has all of {sorted(slots)}")
    lines: Templates = (*fact.statements, *fact.short, *fact.fields, *fact.third)
    pairs = tuple(one for pair in fact.followups for one in pair)
    return _render((*lines, *pairs), env, where) + sum(_ask(ask, env, where) for ask in fact.asks)


def _tool(tool: Tool, env: Mapping[str, str]) -> int:
    where = f"tools.json:{tool.name}"
    count = 0
    for request in tool.requests:
        count += _render(request.lines, env, where)
        for node in request.arguments.values():
            fill(node, env)
    for outcome in (*tool.results, *tool.fails):
        fill(outcome.result, env)
        count += _render(outcome.says, env, where)
    return count
