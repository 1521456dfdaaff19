"""Small text tools: compiled templates, articles, sentence case and player noise."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, KeysView, Mapping

__all__ = ["Env", "Template", "article", "capital", "choose", "player_line", "sentence_case", "tidy"]

_MARK = re.compile(r"\{([A-Za-z0-9_]+)\}")
_SENTENCE_START = re.compile(r"(^|[.!?] |\n)([a-z])")
_SPACES = re.compile(r" {2,}")
_TWICE = re.compile(r"\b([Tt]he|[Aa]n?) (?:the|an?) ")
_A_VOWEL = re.compile(r"\b([Aa]) (?=[aei]|o(?!ne\b|nce\b)|u(?!ni|s[eiu]|k))(?!eu|ewe|[aeiou]\b)")
_SPACE_BEFORE = re.compile(r" +([,.!?;:])(?=\s|$)")
_DOUBLED = re.compile(r"([,.;:!?])[,.;:]+(?=\s|$)")
_SUSPECT = re.compile(r" [ ,.!?;:]|[,.;:!?][,.;:]|\b[Aa] [aeiou]|\b(?:[Tt]he|[Aa]n?) (?:the|an?) ")
_NEW_SENTENCE = re.compile(r"[.!?] [a-z]|\n[a-z]")
_AN_SOUNDS = frozenset("aeiou")
_AN_EXCEPTIONS = ("one", "uni", "use", "eu", "ewe", "user", "once")
_AN_SILENT = ("hour", "honest", "heir", "honour")
_NO_ARTICLE = ("a ", "an ", "the ", "some ", "my ", "your ", "two ", "three ")

Env = Mapping[str, str]


def article(phrase: str) -> str:
    """Returns the phrase with "a" or "an" before it, unless it has an article already."""
    low = phrase.lower()
    if low.startswith(_NO_ARTICLE):
        return phrase
    if low.startswith(_AN_SILENT) or (low[:1] in _AN_SOUNDS and not low.startswith(_AN_EXCEPTIONS)):
        return f"an {phrase}"
    return f"a {phrase}"


def capital(text: str) -> str:
    """Returns the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def tidy(text: str) -> str:
    """Mends spaces, articles and doubled punctuation that slot values may have brought in."""
    text = text.strip(" ")
    if _SUSPECT.search(text) is None:
        return text
    text = _TWICE.sub(r"\1 ", _SPACES.sub(" ", text))
    text = _A_VOWEL.sub(r"\1n ", text)
    text = _SPACE_BEFORE.sub(r"\1", text)
    return _DOUBLED.sub(r"\1", text) if "..." not in text else text


def sentence_case(text: str) -> str:
    """Returns tidied text in which each sentence starts with a capital."""
    text = capital(tidy(text))
    if _NEW_SENTENCE.search(text) is None:
        return text
    return _SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)


class Template:
    """A parsed template string.

    Attributes:
        source: the string it was parsed from.
        needs: the base slot names that must be in the environment.
    """

    __slots__ = ("_parts", "needs", "source")

    def __init__(self, source: str, known: Collection[str], where: str) -> None:
        """Parses a template.

        Args:
            source: the template string.
            known: slot names that may be used.
            where: the file and entry, named in errors.

        Raises:
            ValueError: if a slot is unknown or a brace is left over.
        """
        self.source = source
        parts: list[tuple[str, str]] = []
        needs: set[str] = set()
        at = 0
        for mark in _MARK.finditer(source):
            if mark.start() > at:
                parts.append(("lit", source[at : mark.start()]))
            how, slot = _resolve(mark.group(1), known)
            if not slot:
                raise ValueError(f"{where}: unknown slot {mark.group(0)} in {source!r}")
            parts.append((how, slot))
            needs.add(slot)
            at = mark.end()
        if at < len(source):
            parts.append(("lit", source[at:]))
        if any(how == "lit" and ("{" in text or "}" in text) for how, text in parts):
            raise ValueError(f"{where}: stray brace in {source!r}")
        self._parts = tuple(parts)
        self.needs = frozenset(needs)

    @property
    def starts_literal(self) -> bool:
        """Whether the template starts with plain text, not with a slot."""
        return bool(self._parts) and self._parts[0][0] == "lit"

    def render(self, env: Env) -> str:
        """Returns the text with slots filled from the environment."""
        out: list[str] = []
        for how, text in self._parts:
            if how == "lit":
                out.append(text)
            elif how == "raw":
                out.append(env[text])
            elif how == "cap":
                out.append(capital(env[text]))
            elif how == "art":
                out.append(article(env[text]))
            else:
                out.append(capital(article(env[text])))
        return "".join(out)


def _resolve(mark: str, known: Collection[str]) -> tuple[str, str]:
    """Finds how a slot mark is to be filled: (how, base slot name), the name empty if unknown."""
    if mark in known:
        return "raw", mark
    low = mark[:1].lower() + mark[1:]
    if low in known:
        return "cap", low
    if mark.startswith("a_") and mark[2:] in known:
        return "art", mark[2:]
    if mark.startswith("A_") and mark[2:] in known:
        return "capart", mark[2:]
    return "", ""


def choose(
    rng: random.Random,
    templates: tuple[Template, ...],
    env: Env,
    must: Collection[str] = (),
    avoid: Collection[str] = (),
) -> Template | None:
    """Picks a random template that the environment can fill.

    Args:
        rng: the source of chance.
        templates: the templates to pick from.
        env: slot values at hand.
        must: slots that the template has to use.
        avoid: slots that the template may not use.

    Returns:
        The template, or None when none fits.
    """
    have = env.keys()
    size = len(templates)
    if not size:
        return None
    for _ in range(4):
        one = templates[int(rng.random() * size)]
        if _fits(one.needs, have, must, avoid):
            return one
    fitting = [one for one in templates if _fits(one.needs, have, must, avoid)]
    return fitting[int(rng.random() * len(fitting))] if fitting else None


def _fits(needs: frozenset[str], have: KeysView[str], must: Collection[str], avoid: Collection[str]) -> bool:
    return needs <= have and (not must or needs.issuperset(must)) and (not avoid or needs.isdisjoint(avoid))


_PREFIXES = (
    "hey, ", "hey ", "hi, ", "hello, ", "excuse me, ", "so, ", "so ", "sorry, ", "um, ", "ok, ",
    "okay, ", "please, ", "right, ", "well, ", "listen, ", "one thing: ", "quick question, ",
    "and ", "friend, ", "good day, ", "pardon me, ", "say, ", "oh, ", "ah, ", "wait, ", "hm, ",
    "by the way, ", "can i ask, ", "just curious, ", "one more thing, ", "i forgot, ", "yo, ",
)  # fmt: skip
_SUFFIXES = (" please", " thanks", ", friend", " then", " exactly", " again", " anyway", ", please")
_KEEP_CASE = ("I ", "I'", "I?", "I,")


def _typo(rng: random.Random, text: str, protect: Collection[str]) -> str:
    """Swaps or drops one letter of a plain word that no protected value contains."""
    guarded = " ".join(protect).lower()
    words = text.split(" ")
    free = [
        i
        for i, word in enumerate(words)
        if len(word) >= 4 and word.isalpha() and word.islower() and word not in guarded
    ]
    if not free:
        return text
    at = rng.choice(free)
    word = words[at]
    spot = rng.randrange(1, len(word) - 1)
    if rng.random() < 0.5:
        word = word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :]
    else:
        word = word[:spot] + word[spot + 1 :]
    words[at] = word
    return " ".join(words)


def player_line(
    rng: random.Random,
    template: Template,
    env: Env,
    protect: Collection[str] = (),
    keep_case: bool = False,
) -> str:
    """Renders what the player says, with the carelessness of typed lines.

    Args:
        rng: the source of chance.
        template: the line's template.
        env: slot values.
        protect: values that must stay readable as they are (no typo inside).
        keep_case: keep capitals, for lines whose values are copied later.

    Returns:
        The line.
    """
    text = tidy(template.render(env))
    plain = template.starts_literal and not text.startswith(_KEEP_CASE) and text != text.upper()
    dice = rng.random()
    if dice < 0.16 and "," not in text[:12] and len(text) < 90:
        text = rng.choice(_PREFIXES) + (text[:1].lower() + text[1:] if plain else text)
    elif dice < 0.20 and text.endswith("?") and "," not in text:
        text = text[:-1] + rng.choice(_SUFFIXES) + "?"
    dice = rng.random()
    if dice < 0.30:
        text = text.rstrip(".?!") or text
        if not keep_case:
            text = text.lower()
        elif plain:
            text = text[:1].lower() + text[1:]
    elif dice < 0.40:
        text = text.rstrip(".?!") or text
    elif dice < 0.55:
        text = capital(text)
        if text[-1:].isalnum() and text.lower().startswith(_ASKING):
            text += "?"
    if rng.random() < 0.07:
        text = _typo(rng, text, protect)
    return text


_ASKING = ("what", "who", "how", "where", "when", "why", "which", "do ", "does", "is ", "are ", "can ")
