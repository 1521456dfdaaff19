"""Turns what is told about a character ("She keeps her keys") into what it is told ("You keep your keys").

Rules, no grammar: a sentence is walked word by word. The character's pronouns and name become "you"; the verbs that
belong to them, at once or after "and", are bent; pronouns of the other gender are other people's and stay.
"""

import dataclasses
import re

from understudy.prompt.words import (
    ADVERBS,
    AFTER_OBJECT,
    BARE_VERBS,
    BARRIERS,
    CAUSING_VERBS,
    CONTRACTIONS,
    DETERMINERS,
    NOUN_OR_VERB,
    OBJECT_VERBS,
    PARTICIPLES,
    PERSONS,
    PRESENT_VERBS,
    PRONOUNS,
    STATES,
    TITLES,
    base_form,
    looks_finite,
)

__all__ = ["Grammar", "find_gender", "sentences"]

_WORD = re.compile(r"[^\W_]+(?:[-'\u2019&][^\W_]+)*")
_SENTENCE_END = re.compile("(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"'\u201d\u2019)]))\\s+(?=[\"'\u201c\u2018(]*[A-Z0-9])")
_ABBREVIATION = re.compile(r"(?:^|\s)(?:Mr|Mrs|Ms|Dr|St|Capt|Sgt|Lt|[A-Z])\.$")
_GENERIC = {
    "you": "others",
    "your": "others'",
    "yours": "others'",
    "yourself": "themselves",
    "you've": "others have",
    "you're": "others are",
}


def sentences(text: str) -> list[str]:
    """Split prose into sentences; abbreviations such as `Mr.` end none."""
    parts: list[str] = []
    for part in _SENTENCE_END.split(" ".join(text.split())):
        if parts and _ABBREVIATION.search(parts[-1]):
            parts[-1] += " " + part
        elif part:
            parts.append(part)
    return parts


def find_gender(text: str) -> str:
    """The pronoun of a character: "he", "she", "they", or "" where nothing tells."""
    found = [re.split("['\u2019]", word.lower())[0] for word in _WORD.findall(text)]
    for word in found[:10]:  # "A round, quick woman of fifty-three with ..."
        if word in PERSONS:
            return PERSONS[word]
        if word in PRONOUNS["he"].all or word in PRONOUNS["she"].all:
            return "he" if word in PRONOUNS["he"].all else "she"
        if word in ("with", "from", "to", "by", "whose"):
            break
    counts = {gender: sum(word in forms.all for word in found) for gender, forms in PRONOUNS.items()}
    if not any(counts.values()):
        return ""
    if counts["he"] or counts["she"]:
        return "he" if counts["he"] >= counts["she"] else "she"
    return "they" if re.search(r"(?:^|[.!?] )They\b", text) else ""


@dataclasses.dataclass
class _Walk:
    """Where a walk through a sentence stands.

    Attributes:
        out: text so far, words and what is between them.
        expects_verb: the character is the subject and its verb is still to come.
        may_join: an "and" or a comma stands just before, so a verb here is again the character's.
        is_subject: the character is the subject of the sentence.
        is_clause_own: the character is the subject of this clause.
        was_subject: it was, before a relative clause; ", and" goes back to it.
    """

    out: list[str] = dataclasses.field(default_factory=list)
    expects_verb: bool = False
    may_join: bool = False
    is_subject: bool = False
    is_clause_own: bool = False
    was_subject: bool = False


class Grammar:
    """Turns sentences about one character."""

    def __init__(self, name: str, gender: str) -> None:
        """Prepare for a character.

        Args:
            name: its full name, with title.
            gender: what `find_gender` says.
        """
        self._forms = PRONOUNS.get(gender)
        parts = [p for p in name.split() if p.strip(".,").lower() not in TITLES]
        self._names = {p for p in parts if len(p) > 2 and p[0].isupper()}
        whole = {name, " ".join(parts)} - {""}
        longest_first = "|".join(re.escape(n) for n in sorted(whole, key=len, reverse=True))
        self._full = re.compile(rf"(?<!\w)(?:{longest_first})(?!\w)")

    def turn(self, sentence: str) -> str:
        """Turn one sentence; what is already said to "you" (the reader) is said of "others"."""
        return self._run(sentence, _Walk())

    def continue_you(self, fragment: str) -> str:
        """Turn a fragment that lacks its subject: "Calls people love" gives "you call people love"."""
        walk = _Walk(expects_verb=True, is_subject=True, is_clause_own=True)
        return "you " + self._run(fragment[:1].lower() + fragment[1:], walk)

    def _run(self, sentence: str, walk: _Walk) -> str:
        sentence = self._full.sub(lambda m: m[0].replace(" ", "\0"), sentence)  # a full name is one word
        tokens = re.findall(rf"{_WORD.pattern}(?:\0{_WORD.pattern})*|[\W_]", sentence)
        places = [n for n, token in enumerate(tokens) if token[0].isalnum()]
        end = 0
        for order, n in enumerate(places):
            token, between = tokens[n], "".join(tokens[end:n])
            before = tokens[places[order - 1]] if order and not between.strip() else ""
            after = ""
            if order + 1 < len(places) and not "".join(tokens[n + 1 : places[order + 1]]).strip():
                after = tokens[places[order + 1]]
            self._gap(walk, between)
            new = self._word(walk, token, before=before, after=after)
            if new != token and token[0].isupper() and (not order or ": " in between):
                new = new[:1].upper() + new[1:]
            walk.out.append(new)
            end = n + 1
        return "".join([*walk.out, *tokens[end:]]).replace("\0", " ")

    def opens_with_verb(self, text: str) -> bool:
        """Whether a fragment such as "Never raises her voice" lacks only its subject."""
        words = _WORD.findall(text)
        while len(words) > 1 and (words[0].lower() in ADVERBS or words[0].endswith("ly")):
            words = words[1:]
        after = words[1] if len(words) > 1 else ""
        if words and words[0].lower() in ("can", "can't", "cannot", "could", "would", "will", "must", "may"):
            return True
        return bool(words) and _is_verb(words[0].lower(), after)

    def _gap(self, walk: _Walk, between: str) -> None:
        walk.out.append(between)
        mark = between.strip()
        if mark:
            walk.expects_verb = walk.expects_verb and mark == "," and walk.is_clause_own
            walk.may_join = mark[-1:] in ",;-\u2013\u2014" and walk.is_subject
            walk.is_clause_own = walk.is_clause_own and mark == ","

    def _word(self, walk: _Walk, token: str, *, before: str, after: str) -> str:
        low = token.lower().replace("\u2019", "'")
        if low in _GENERIC:
            return token if after.lower() == "please" or before.lower() == "thank" else _GENERIC[low]
        own = self._own(walk, token, low, before=before, after=after)
        if own is not None:
            return own
        if low in ADVERBS or (low.endswith("ly") and (walk.expects_verb or walk.may_join)):
            return token
        if walk.expects_verb and low in ("no", "longer"):
            return token
        if walk.expects_verb:
            walk.expects_verb = False
            walk.may_join = False
            return base_form(token)
        if walk.may_join:
            walk.may_join = low in ("and", "but", "or", "then", "yet")
            if walk.is_subject and _is_verb(low, after):
                walk.is_clause_own = True
                return base_form(token)
            if walk.may_join:
                return token
        if low in ("and", "but", "or", "then", "yet"):
            walk.is_subject = walk.is_subject or (walk.was_subject and not before)
            walk.may_join = walk.is_subject
        elif low in BARRIERS:
            walk.is_clause_own = False
            if looks_finite(after.lower()):  # "a dog who sleeps and barks": these verbs are the dog's
                walk.was_subject = walk.is_subject
                walk.is_subject = False
        return token

    def _own(self, walk: _Walk, token: str, low: str, *, before: str, after: str) -> str | None:
        """The word that stands for the character itself, or None where the token is none of its."""
        forms = self._forms
        if self._is_name(token, before=before, after=after) or (forms and low == forms.subject):
            if before.lower() in ("as", "are", "is") and (not after or after[0].isupper()):
                return token  # "talks of boats as she"
            if before.lower() in ("is", "was", "has", "does") and walk.out[-2:-1] == [before]:
                walk.out[-2] = base_form(before)
                return "you"
            walk.expects_verb = walk.is_subject = walk.is_clause_own = True
            walk.may_join = False
            return "you"
        if token.endswith(("'s", "\u2019s")) and not after[:1].isupper():
            owner = token[:-2].replace("\0", " ")
            if owner in self._names or self._full.fullmatch(owner):
                return "your"
        if not forms:
            return None
        if low.startswith(forms.subject + "'"):
            return self._contracted(walk, low[len(forms.subject) :], after)
        if low == forms.reflexive:
            return token if before[:1].isupper() and before.lower() != forms.subject else "yourself"
        if low in forms.possessive and not (low in forms.object and _ends_object(before, after)):
            walk.may_join = False
            return "your" if after else "yours"
        if low in forms.absolute:
            return "yours"
        if low in forms.object:
            return token if walk.is_clause_own else "you"
        return None

    def _is_name(self, token: str, *, before: str, after: str) -> bool:
        if self._full.fullmatch(token.replace("\0", " ")):
            return not after[:1].isupper()
        if token not in self._names or before[:1].isupper():
            return False
        return looks_finite(after.lower()) or _is_verb(after.lower(), "the") or after.lower() in ADVERBS

    def _contracted(self, walk: _Walk, ending: str, after: str) -> str:
        walk.is_subject = walk.is_clause_own = True
        if ending == "'s":
            has = after.lower() in PARTICIPLES or (after.endswith("ed") and after.lower() not in STATES)
            return "you've" if has else "you're"
        return "you" + ending


def _ends_object(before: str, after: str) -> bool:
    """Whether "her" between these words is the object ("finds her in") and not the owner ("finds her door")."""
    low = after.lower()
    if before.lower() in CAUSING_VERBS and low in BARE_VERBS:
        return True
    if low.endswith("ing"):
        return before.lower() in OBJECT_VERBS
    return not low or low in AFTER_OBJECT or low in ADVERBS or low in DETERMINERS


def _is_verb(low: str, after: str) -> bool:
    if low in CONTRACTIONS or low in ("is", "was", "has", "does"):
        return True
    if low in NOUN_OR_VERB:
        return after.lower() in DETERMINERS or after.lower() in ("before", "after", "often")
    return low in PRESENT_VERBS
