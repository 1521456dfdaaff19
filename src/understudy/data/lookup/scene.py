"""One dialogue in the making, and the moves that its turns are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from .content import COMMON, Slots, Tell, load_small, load_tells, mapping, need, parse, read_object, strings
from .lore import LoreKit, Topic
from .persona import Character, PersonaKit
from .text import Template, capital, choose, player_line, sentence_case
from .tooluse import Offer, Outcome, Request, Tool, ToolKit, call_arguments, leaves, result_text

__all__ = ["Content", "Scene", "Told", "Turn"]

Turn = dict[str, object]


class Content:
    """Everything compiled, bound to one source of chance."""

    def __init__(self, folder: Path, slots: Slots, rng: random.Random) -> None:
        """Compiles all content files of a folder.

        Args:
            folder: where the content files lie.
            slots: makers of slot values.
            rng: the source of chance.
        """
        self.rng = rng
        self.persona = PersonaKit(folder, slots, rng)
        self.lore = LoreKit(folder, slots, rng)
        self.tells = load_tells(folder / "recall.json", slots)
        self.tools = ToolKit(folder, slots, rng, self.persona.raw)
        self.small = load_small(folder / "smalltalk.json", slots)
        unknown = _unknown(folder / "unknown.json")
        self.unknown = unknown["answers"]
        self.unknown_self = unknown["persona_answers"]
        self.unknown_subject = unknown["answers_subject"] or unknown["answers"]
        self.lead = ("", *(one.source for one in unknown["lead"]))
        shapes = self.persona.raw
        self.not_told = _lines(shapes, "not_told")
        self.cannot = _lines(shapes, "cannot")
        self.lore_rules = strings(shapes, "lore_rules", "prompts.json")
        self.lore_in_system = strings(shapes, "lore_in_system", "prompts.json")
        clashes = mapping(shapes, "small_clashes", "prompts.json")
        self.small_clashes = {key: strings(clashes, key, "prompts.json:small_clashes") for key in clashes}
        self.tool_rules = strings(shapes, "tool_rules", "prompts.json")


def _lines(shapes: Mapping[str, object], key: str) -> tuple[Template, ...]:
    where = f"prompts.json:{key}"
    return need(parse(strings(shapes, key, where), COMMON, where), where, key)


def _unknown(path: Path) -> dict[str, tuple[Template, ...]]:
    data = read_object(path)
    out = {}
    for key in ("answers", "persona_answers", "answers_subject", "lead"):
        where = f"{path.name}:{key}"
        out[key] = parse(strings(data, key, where), (*COMMON, "subject"), where)
    need(out["answers"], path.name, "answers")
    need(out["persona_answers"], path.name, "persona_answers")
    return out


@dataclass(slots=True)
class Told:
    """Something that the player told, and how many turns ago it was."""

    tell: Tell
    env: dict[str, str]
    asked: bool = False


class Scene:
    """A dialogue under way.

    Attributes:
        turns: the turns so far.
        answers: per assistant turn the value that a right answer holds; None where there is none,
            "" where the right answer is that it is not known.
    """

    def __init__(self, content: Content, who: Character) -> None:
        """Starts with no turns.

        Args:
            content: the compiled content.
            who: the character that answers.
        """
        self._c = content
        self._rng = content.rng
        self.who = who
        self.topics: list[Topic] = []
        self.offers: list[Offer] = []
        self.turns: list[Turn] = []
        self.answers: list[str | None] = []
        self._told: list[Told] = []
        self._small_used: set[str] = set()
        self._identity_used: set[str] = set()
        self._last_topic: Topic | None = None
        self._stated = {one.fact.id for one in who.stated}

    def _user(
        self,
        template: Template,
        env: Mapping[str, str],
        protect: Collection[str] = (),
        keep_case: bool = False,
    ) -> None:
        text = player_line(self._rng, template, env, protect, keep_case)
        self.turns.append({"role": "user", "content": text})

    def _say(self, template: Template, env: Mapping[str, str], value: str | None, lead: str = "") -> None:
        text = template.render(env)
        style = self.who.style
        if lead:
            lower = lead.endswith(", ") and template.starts_literal and text[:2] not in _KEEP
            text = lead + (text[:1].lower() + text[1:] if lower else text)
        elif style is not None and self._rng.random() < 0.3:
            prefix, suffix = self._rng.choice(style.prefix), self._rng.choice(style.suffix)
            if prefix and prefix[-2:] == ", " and template.starts_literal and text[:2] not in _KEEP:
                text = text[:1].lower() + text[1:]
            text = prefix + text + (suffix if prefix == "" or self._rng.random() < 0.3 else "")
        self.turns.append({"role": "assistant", "content": capital(sentence_case(text))})
        self.answers.append(value)

    def _answer_unknown(self, pool: tuple[Template, ...], subject: str = "") -> None:
        """Says that something is not known, now and then with a lead such as "Hm."."""
        env = {**self.who.env, "subject": subject} if subject else self.who.env
        template = choose(self._rng, pool, env)
        if template is None:
            raise ValueError("unknown.json: no answer without special slots")
        lead = self._rng.choice(self._c.lead) if self._rng.random() < 0.12 else ""
        self._say(template, env, "", lead)

    def ask_fact(self) -> bool:
        """The player asks for a fact of the prompt."""
        rng = self._rng
        open_asks = [(one, ask) for one in self.who.stated for ask in one.left]
        if not open_asks:
            return False
        one, ask = rng.choice(open_asks)
        env = {**self.who.env, **one.env}
        question = choose(rng, ask.questions, env)
        answer = choose(rng, ask.answers, env)
        one.left.remove(ask)
        if question is None or answer is None:
            return False
        self._user(question, env, [one.env[slot] for slot, _ in one.fact.slots])
        self._say(answer, env, one.env[ask.slot])
        if one.fact.followups and self.player_turns() < 6 and rng.random() < 0.4:
            q, a = rng.choice(one.fact.followups)
            if q.needs | a.needs <= env.keys():
                self._user(q, env)
                self._say(a, env, None)
        return True

    def ask_identity(self) -> bool:
        """The player asks for the name, the trade or the place."""
        rng = self._rng
        asks = [
            one
            for one in self._c.persona.identity
            if one.slot in self.who.env
            and one.slot not in self._identity_used
            and not (one.slot == "place" and self._stated & self._c.persona.place_facts)
        ]
        if not asks:
            return False
        ask = rng.choice(asks)
        question = choose(rng, ask.questions, self.who.env)
        answer = choose(rng, ask.answers, self.who.env)
        if question is None or answer is None:
            return False
        self._identity_used.add(ask.slot)
        self._user(question, self.who.env)
        self._say(answer, self.who.env, self.who.env[ask.slot])
        return True

    def ask_unstated(self) -> bool:
        """The player asks something personal that the prompt does not tell."""
        fact = self._c.persona.unstated(self.who)
        if fact is None:
            return False
        ask = self._rng.choice(fact.asks)
        slots = [slot for slot, _ in fact.slots]
        question = choose(self._rng, ask.questions, self.who.env, avoid=slots)
        if question is None:
            return False
        self._user(question, self.who.env)
        self._answer_unknown(self._c.unknown_self)
        return True

    def small_talk(self) -> bool:
        """Greetings and the like."""
        rng = self._rng
        one = self._c.small[int(rng.random() * len(self._c.small))]
        values = {slot: make() for slot, make in one.slots}
        env = {**self.who.env, **values}
        question = choose(rng, one.questions, env, must=list(values))
        answer = choose(rng, one.answers, env)
        if one.id in self._small_used or question is None or answer is None:
            return False
        if self._stated and not self._stated.isdisjoint(self._c.small_clashes.get(one.id, ())):
            return False
        self._small_used.add(one.id)
        self._user(question, env, list(values.values()), keep_case=bool(values))
        self._say(answer, env, None)
        return True

    def tell(self) -> bool:
        """The player tells something about themselves."""
        rng = self._rng
        tell = rng.choice(self._c.tells)
        if any(tell.id == one.tell.id for one in self._told) or len(self._told) > 3:
            return False
        values = {slot: make() for slot, make in tell.slots}
        env = {**self.who.env, **values}
        told, reaction = choose(rng, tell.tells, env), choose(rng, tell.reactions, env)
        if told is None or reaction is None:
            return False
        shown = {slot: value for slot, value in env.items() if slot not in values or slot in told.needs}
        reaction = choose(rng, tell.reactions, shown)
        if reaction is None:
            return False
        self._user(told, env, list(values.values()), keep_case=True)
        self._say(reaction, shown, None)
        self._told.append(Told(tell, shown))
        if tell.id == "name":
            self.who.env["player"] = values["x"]
        return True

    def ask_told(self) -> bool:
        """The player asks back what they told."""
        rng = self._rng
        left = [one for one in self._told if not one.asked]
        if not left:
            return False
        one = rng.choice(left)
        if one is self._told[-1] and len(left) == 1 and rng.random() < 0.3:
            return False
        question = choose(rng, one.tell.questions, one.env)
        answer = choose(rng, one.tell.answers, one.env)
        if question is None or answer is None:
            return False
        one.asked = True
        self._user(question, one.env)
        self._say(answer, one.env, one.env["x"])
        return True

    def ask_untold(self) -> bool:
        """The player asks for something that they never told."""
        rng = self._rng
        told = {one.tell.id for one in self._told}
        rest = [one for one in self._c.tells if one.id not in told and one.id != "seek"]
        if not rest:
            return False
        tell = rng.choice(rest)
        question = choose(rng, tell.questions, self.who.env, avoid=[slot for slot, _ in tell.slots])
        if question is None:
            return False
        self._user(question, self.who.env)
        self._answer_unknown(self._c.not_told)
        return True

    def ask_lore(self) -> bool:
        """The player asks for something that a passage states."""
        rng = self._rng
        if self._last_topic is not None and self._last_topic.left and rng.random() < 0.35:
            pairs = [(self._last_topic, pair) for pair in self._last_topic.left]
        else:
            pairs = [(topic, pair) for topic in self.topics for pair in topic.left]
        if not pairs:
            return False
        topic, pair = rng.choice(pairs)
        values, ask = pair
        topic.left.remove(pair)
        env = {**self.who.env, **values}
        bare = len(self.topics) == 1 or self._last_topic is topic
        question = choose(rng, ask.questions, env, must=() if bare else ("subject",))
        answer = choose(rng, ask.answers, env)
        if question is None or answer is None:
            return False
        self._user(question, env, list(values.values()))
        self._say(answer, env, env[ask.slot])
        self._last_topic = topic
        return True

    def ask_lore_missing(self) -> bool:
        """The player asks for something that no passage states."""
        rng = self._rng
        topic = rng.choice(self.topics)
        subject: str | None = topic.subject
        if rng.random() < 0.6:
            fact = self._c.lore.missing(topic)
        else:
            fact = rng.choice(topic.group.facts)
            subject = self._c.lore.stranger(topic.group, self.topics)
        if fact is None or subject is None:
            return False
        ask = rng.choice(fact.asks)
        env = {**self.who.env, "subject": subject}
        slots = [slot for slot, _ in fact.slots]
        question = choose(rng, ask.questions, env, must=("subject",), avoid=slots)
        if question is None:
            return False
        self._user(question, env, [subject])
        known = subject == topic.subject and rng.random() < 0.25
        self._answer_unknown(self._c.unknown_subject if known else self._c.unknown, subject)
        self._last_topic = None
        return True

    def call_tool(self) -> bool:
        """The player asks for something that a tool does."""
        rng = self._rng
        if not self.offers:
            return False
        offer = rng.choice(self.offers)
        values = self._c.tools.values(offer.tool)
        env = {**self.who.env, **values}
        request = rng.choice(offer.tool.requests)
        line = choose(rng, request.lines, env)
        if line is None:
            return False
        self._user(line, env, list(values.values()), keep_case=True)
        self._call(offer, request, line, values)
        return True

    def _call(self, offer: Offer, request: Request, line: Template, values: dict[str, str]) -> None:
        rng = self._rng
        arguments = call_arguments(offer, request, values)
        call = {"name": offer.name, "arguments": arguments}
        self.turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
        said = str(self.turns[-2]["content"]).lower()
        found = leaves(arguments)
        self.answers.append(next((leaf for leaf in found if leaf.lower() in said), found[0] if found else None))
        fails = offer.tool.fails
        outcome = rng.choice(fails if fails and rng.random() < 0.12 else offer.tool.results)
        self.turns.append({"role": "tool", "content": result_text(outcome, values)})
        self._report(outcome, line, values)

    def _report(self, outcome: Outcome, line: Template, values: dict[str, str]) -> None:
        """Says what the tool's answer means, with the values that it or the player gave."""
        seen = {slot: one for slot, one in values.items() if slot in outcome.slots | line.needs}
        env = {**self.who.env, **seen}
        news = sorted(slot for slot in outcome.slots if slot not in line.needs)
        says = choose(self._rng, outcome.says, env, must=news[:1]) if news else None
        says = says or choose(self._rng, outcome.says, env)
        if says is None:
            raise ValueError(f"tools.json: nothing to say after {sorted(outcome.slots)}")
        value = next((env[slot] for slot in news if slot in says.needs), None)
        self._say(says, env, value)

    def ask_no_tool(self) -> bool:
        """The player asks for something that no offered tool does."""
        tool: Tool | None = self._c.tools.outsider(self.offers)
        if tool is None:
            return False
        values = self._c.tools.values(tool)
        env = {**self.who.env, **values}
        line = choose(self._rng, self._rng.choice(tool.requests).lines, env)
        if line is None:
            return False
        self._user(line, env, list(values.values()), keep_case=True)
        self._answer_unknown(self._c.cannot)
        return True

    def play(self, count: int, moves: Collection[tuple[Callable[[], bool], float]]) -> None:
        """Makes about `count` player turns out of weighted moves."""
        rng = self._rng
        names = [move for move, _ in moves]
        weights = [weight for _, weight in moves]
        for _ in range(count * 4):
            if self.player_turns() >= count:
                return
            rng.choices(names, weights)[0]()

    def player_turns(self) -> int:
        """How often the player has spoken."""
        return sum(turn["role"] == "user" for turn in self.turns)


_KEEP = ("I ", "I'")
