"""A character's record as the system prompt that small models follow best: short, and in the second person."""

import dataclasses
import re

from understudy.prompt.second_person import Grammar, find_gender, sentences
from understudy.prompt.words import KIN, NUMBERS

__all__ = ["Persona", "persona_prompt"]

_MAX_WORDS = 130
_STRUCTURED = re.compile(r"[\[\]{}|<>=+*#]|^\s*[-•]|\n\s*\n", re.MULTILINE)
_PARTICIPLE = re.compile(
    r"(?:[A-Z][a-z]+ed|Born|Taught|Brought|Sent|Sold|Known|Found) (?:\w+ )?(?:by|in|at|to|on|from|as|up|into|of)\b"
)
_AGE = re.compile(rf"(?:\d+|(?:{'|'.join(sorted(NUMBERS))})(?:-[a-z]+)?)(?:,| and | years old)", re.IGNORECASE)
_KIN = re.compile(rf"(?:{'|'.join(sorted(KIN))}) of\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Persona:
    """Who a character is, in the words of its author (third person or second).

    Attributes:
        name: full name.
        role: trade or post, e.g. "innkeeper of the Dry Boot".
        description: looks and history.
        personality: adjectives, or clauses divided by semicolons.
        speech_style: how it talks.
        scenario: where and how the player meets it.
        place: the town or world that it lives in.
    """

    name: str
    role: str = ""
    description: str = ""
    personality: str = ""
    speech_style: str = ""
    scenario: str = ""
    place: str = ""


def persona_prompt(persona: Persona, *, max_words: int = _MAX_WORDS) -> str:
    """Tell a character who it is.

    Sentences that the rules cannot turn stay in the third person. Over the limit the last sentences of the
    description go first, then the scenario; name, role, personality and speech stay.

    Args:
        persona: the record.
        max_words: about how long the prompt may become.
    """
    about = " ".join((persona.description, persona.personality, persona.speech_style, persona.scenario))
    grammar = Grammar(persona.name, find_gender(about))
    description = _description(persona.description, grammar)
    manner = [_personality(persona.personality, grammar), _speech(persona.speech_style, grammar)]
    scenario = _turned(persona.scenario, grammar)
    kept = [_head(persona), *filter(None, manner)]
    room = max_words - sum(map(_num_words, kept))
    if _num_words(" ".join(description[:1])) + _num_words(scenario) > room:
        scenario = ""
    while len(description) > 1 and sum(map(_num_words, description)) + _num_words(scenario) > room:
        description.pop()
    return " ".join(filter(None, [kept[0], *description, *kept[1:], scenario]))


def _num_words(text: str) -> int:
    return len(text.split())


def _head(persona: Persona) -> str:
    head = f"You are {persona.name}"
    role = persona.role.strip().rstrip(".")
    if role:
        head += f", {role}"
    if persona.place and persona.place.lower() not in head.lower():
        head += f"{',' if ',' in role or not role else ''} {'in' if role else 'of'} {_the(persona.place)}"
    return head + "."


def _the(place: str) -> str:
    return place[:1].lower() + place[1:] if place.startswith("The ") else place


def _is_second_person(text: str) -> bool:
    return bool(re.match(r"(?:you|your|i|i'm|my)\b", text.strip(), re.IGNORECASE))


def _description(text: str, grammar: Grammar) -> list[str]:
    if _STRUCTURED.search(text) or _is_second_person(text):
        return [text.strip()] if text.strip() else []
    return [_statement(s, grammar, is_first=n == 0) for n, s in enumerate(sentences(text))]


def _statement(sentence: str, grammar: Grammar, *, is_first: bool) -> str:
    """A sentence of the description; a fragment gets the subject and verb that it lacks."""
    lowered = sentence[:1].lower() + sentence[1:]
    if is_first and _is_noun_phrase(sentence):
        return "You are " + grammar.turn(lowered)
    if _AGE.match(sentence):
        return "You are " + grammar.turn(lowered)
    if _KIN.match(sentence):
        lasts = re.search(r"\bfor [\w-]+ years\b", sentence)
        return ("You have been the " if lasts else "You are the ") + grammar.turn(lowered)
    if _PARTICIPLE.match(sentence):
        return "You were " + grammar.turn(lowered)
    if re.match(r"(?:Once|Formerly) an? ", sentence) and not re.search(r"\b(?:is|was|has)\b", sentence):
        return "You were " + grammar.turn(lowered)
    return _fragment(sentence, grammar)


def _is_noun_phrase(sentence: str) -> bool:
    """Whether a sentence says only what the character is ("A tall woman with ..."), and has no verb of its own."""
    start = re.match(r"(?:An?|One of|The (?:last|first|only|eldest|youngest))\b", sentence)
    if not start:
        return False
    head = re.split(r"[,;:.]| (?:with|in|of|on|at|by|from|over|who|that|whose|which|to|into)\b", sentence, maxsplit=1)[
        0
    ]
    last = head.split()[-1].lower()
    has_verb = re.search(r" (?:is|was|has|had|can|will|would|does|did)\b", head) is not None
    return not has_verb and not (last.endswith("s") and not last.endswith(("ss", "us", "is")))


def _fragment(text: str, grammar: Grammar) -> str:
    if grammar.opens_with_verb(text):
        return _capital(grammar.continue_you(text))
    return grammar.turn(text)


def _personality(text: str, grammar: Grammar) -> str:
    text = text.strip()
    if not text or _STRUCTURED.search(text) or _is_second_person(text):
        return text
    whole = sentences(text)
    first = "; ".join(_trait(part, grammar, is_first=n == 0) for n, part in enumerate(re.split(r";\s*", whole[0])))
    rest = [_fragment(s, grammar) for s in whole[1:]]
    return _stop(" ".join([_capital(first), *rest]))


def _trait(text: str, grammar: Grammar, *, is_first: bool) -> str:
    if grammar.opens_with_verb(text):
        return grammar.continue_you(text)
    if re.match(r"(?:he|she|they)\b", text, re.IGNORECASE):
        return grammar.turn(text)
    parts = re.split(r",\s+", text)
    num_plain = next((n for n, part in enumerate(parts) if grammar.opens_with_verb(part)), len(parts))
    plain = ", ".join(parts[:num_plain])
    turned = grammar.continue_you(f"is {plain[:1].lower()}{plain[1:]}")
    if num_plain < len(parts):
        turned += "; " + grammar.continue_you(", ".join(parts[num_plain:]))
    return turned if is_first else turned.removeprefix("you are ")


def _speech(text: str, grammar: Grammar) -> str:
    text = text.strip()
    if not text or _STRUCTURED.search(text) or _is_second_person(text):
        return text
    lines = []
    for number, sentence in enumerate(sentences(text)):
        line = "; ".join(_habit(part, grammar) for part in re.split(r";\s*", sentence))
        if number == 0 and not line.lower().startswith(("you ", "your ")):
            line = f"How you speak: {line[:1].lower()}{line[1:]}"
        lines.append(_capital(line))
    return _stop(" ".join(lines))


def _habit(text: str, grammar: Grammar) -> str:
    """Turn a clause on speech: "slow and low, answers late" gives "slow and low; you answer late"."""
    parts = re.split(r",\s+", text)
    for number, part in enumerate(parts):
        if grammar.opens_with_verb(part):
            said = [grammar.turn(", ".join(parts[:number])), grammar.continue_you(", ".join(parts[number:]))]
            return "; ".join(filter(None, said))
    return grammar.turn(text)


def _turned(text: str, grammar: Grammar) -> str:
    text = text.strip()
    if not text or _STRUCTURED.search(text) or _is_second_person(text):
        return text
    return _stop(" ".join(grammar.turn(s) for s in sentences(text)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stop(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…", '"', "”", ")")) else text + "."
