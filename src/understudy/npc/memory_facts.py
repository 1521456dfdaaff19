"""What a player says of himself: names, promises, debts, gifts, deeds; from plain statements alone.

Better none than a wrong one. Nothing is taken from questions, from what might be or is not, from what others said,
from play within the play, or from lines with signs of markup; what is taken is the player's own sentence, for quoting.
"""

import re
from collections.abc import Iterator

__all__ = ["KINDS", "extract_facts", "has_markup"]

KINDS = ("name", "home", "trade", "kin", "promise", "debt", "gift", "deed", "taste", "note")

_MAX_LINE = 2000
_MAX_SENTENCE = 200
_MARKUP = re.compile(r"[<>{}\[\]|\\`~#=^]|\w+\s*:|&\w+;|https?")
_STAGE = re.compile(r"\*[^*]*\*|\([^()]*\)")
_QUOTES = re.compile(r"[\"\u201c\u201d\u201e\u00ab\u00bb]|(?<!\w)['\u2018]|['\u2019](?!\w)")
_SENTENCE = re.compile(r"[^.!?;\n\u2026]+[.!?;\n\u2026]*")
_ASIDE = re.compile(
    r",\s*(?:(?:and|but|so)\s+)?(?=(?:who|what|where|when|why|how|which|do|does|did|can|could|is|are|will|would|may)\b)",
    re.IGNORECASE,
)
# Words anywhere in a line that make all of it a game, a joke or a tale.
_PLAY = re.compile(
    r"\b(?:kidding|joking|joke|jest|pretend\w*|imagine|suppose|supposing|hypothetic\w*|let(?:'?s| us) (?:say|play)"
    r"|what if|role ?-?play\w*|in (?:a|the|my|this) (?:story|song|play|poem|book|tale|dream|game)|not really|lied|lying"
    r"|once upon|system prompt|instructions?|testing)\b",
    re.IGNORECASE,
)
# Words anywhere in a sentence that make it no plain fact.
_UNREAL = re.compile(
    r"\b(?:if|unless|whether|would|could|might|maybe|perhaps|possibly|probably|wish|wished|dreamt|dreamed|almost|nearly"
    r"|as though|used to|going to|about to|meant to|tried to|trying to|want to|wanted to|plan to|planned to|supposed to"
    r"|ought|should|guess|bet|or|i'?d)\b",
    re.IGNORECASE,
)
_REPORTED = re.compile(
    r"\b(?:said|says|saying|told|tells|claims?|claimed|heard|asked|asks|thinks?|thought|believes?|believed|wrote"
    r"|sings?|sang|rumou?rs?|according|supposedly|apparently|they say|called out)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not|never|no|nothing|nobody|none|neither|nor|hardly|barely|without)\b|n['\u2019]t\b", re.IGNORECASE
)
_LEAD = re.compile(
    r"^(?:(?:well|hello|hi|hey|greetings|good (?:day|morning|evening)|ah|oh|and|but|so|yes|yeah|aye|no|okay|ok|sure"
    r"|listen|look|please|actually|anyway|by the way|btw|right|then|friend|sir|madam|old friend|thanks|thank you"
    r"|sorry)\b[,\s]*)+",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"^[A-Z][\w'\u2019-]+(?: [A-Z][\w'\u2019-]+)?, (?=[A-Z]|i\b|my\b|you\b|call\b|here\b|this\b|take\b)"
)

_I = r"i(?:'ve| have)?(?: (?:just|already|finally|also|really|once|still|even|truly))?"
_PROPER = r"(?-i:[A-Z][a-z\u00df-\u024f'\u2019-]*[a-z\u00df-\u024f])"
_NAME = rf"(?:{_PROPER}(?: (?:(?:of|the|von|van|de|ap) )?{_PROPER}){{0,2}})"
_END = r"(?=$|[,.!]| and\b| from\b| of\b)"
_THE = (
    r"(?:the|your|my|his|her|their|our|this|these|that|those|a|an|all|both|two|three|four|five|six|seven|ten|\d+"
    r"|(?-i:[A-Z]\w+))"
)
_NO_NAME = (
    "not so very too the a an sorry fine good here back sure god just known unknown none nobody mud important "
    "secret mine english french german spanish italian irish scottish welsh american christian catholic hungry "
    "tired lost well ok okay your you ready happy sad done afraid glad new old busy monday tuesday wednesday "
    "thursday friday saturday sunday ruined cursed forgotten legion irrelevant private yours his hers it that this "
    "what who king queen"
)
_TRADES = (
    "actor actress apothecary apprentice archer baker bard barber beekeeper blacksmith boatman brewer bricklayer "
    "builder butcher captain carpenter cartographer carter clerk cobbler cook cooper courier doctor druid dyer "
    "engineer farmer ferryman fiddler fisher fisherman fletcher forester gardener goldsmith guard guardsman healer "
    "herbalist herder hunter innkeeper jeweller journalist judge knight lawyer librarian locksmith mason mechanic "
    "mercenary merchant midwife miller miner minstrel monk musician nun nurse painter paladin pilgrim pilot pirate "
    "physician poet potter priest priestess ranger sailor scholar scribe seamstress sellsword shepherd shoemaker "
    "singer smith soldier spy squire student surgeon tailor tanner teacher thatcher thief tinker trader trapper "
    "warrior weaver witch wizard woodcutter writer"
)
_KIN = (
    r"(?:wife|husband|sister|brother|mother|father|son|daughter|uncle|aunt|cousin|horse|dog|cat|mule|pony|master"
    r"|teacher)"
)
_NO_GIFT = (
    r"(?!\w*\s*(?:word|minutes?|hours?|moment|seconds?|chances?|warning|permission|credit|thanks|time|choice|until"
    r"|reason|orders?)\b)"
)
_CARE = r"(?:bring|fetch|repay|pay|return|deliver|find|protect|rescue|save|guard|avenge|help|defend|free)"
_DEED = (
    r"(?:killed|slew|defeated|saved|rescued|found|stole|fixed|mended|repaired|delivered|burned|burnt|freed|cleared|caught"
    r"|buried|escorted|healed|cured|brought back|returned|drove off|chased off|hid|built|planted|sank|robbed|warned"
    r"|opened)"
)
_VOW = (
    r"(?:i (?:promise|swear|vow)(?: you| to you| on my \w+| by \S+ \S+)?|(?:you have|i give you) my word),?(?: that)?"
    r" (?:(?:never |not )?to|i(?:'ll| will| shall| won't| am| swear)?) \w+"
)
_PLACE = r"i(?:'m| am| come| came) from|i (?:live|was born|grew up) (?:in|on|at|near|by)|my home is(?: in)?"
_CALLED = r"my name(?: is|'s)|the name(?: is|'s)|i(?:'m| am) (?:called|named)|i go by"
_CALLERS = r"(?:you (?:can|may) |please )?call me|(?:people|folk|my friends|friends|they|everyone|everybody) calls? me"
_WEAK = r"(?!(?:you|your|it|that|this|him|her|them|how|when|where|what|to|being|the way)\b)"  # of a taste
_PATTERNS = (
    ("name", rf"(?:{_CALLED}) (?P<name>{_NAME}|\w+){_END}"),
    ("name", rf"(?:{_CALLERS}) (?P<name>{_NAME}){_END}"),
    ("name", rf"i(?:'m| am) (?P<name>{_NAME}){_END}"),
    ("home", rf"(?:{_PLACE}) (?:the )?(?:\w+ of )?{_NAME}"),
    ("trade", rf"i(?:'m| am) (?:an?|the) (?:\w+ )?(?P<trade>\w+){_END}"),
    ("trade", r"i work as an? \w+"),
    ("kin", rf"my (?:\w+ )?{_KIN}(?:'s name)? is (?:called |named )?{_NAME}{_END}"),
    ("kin", rf"i have an? (?:\w+ )?{_KIN} (?:called|named) {_NAME}{_END}"),
    ("promise", _VOW),
    ("promise", rf"i(?:'ll| will| shall) (?:(?:surely|certainly|gladly|always) )?{_CARE} .*\byour?\b"),
    ("promise", rf"i(?:'ll| will| shall) {_CARE} (?:you|your|back)\b"),
    ("promise", r"i(?:'ll| will| shall) (?:be|come) back\b"),
    ("debt", r"(?:i(?: still)? owe you|you(?: still)? owe me) (?!an? (?:apology|explanation|answer)\b|one\b)\w+"),
    ("debt", rf"(?:you lent me|i lent you|i borrowed) {_THE} \w+"),
    ("gift", rf"{_I} (?:brought|bought|made|got|give|gave) you {_NO_GIFT}(?:{_THE}|some|something) ?\w*"),
    ("gift", r"you gave me (?:the|your|this|a|an|some|two|three|\d+) \w+"),
    ("gift", r"(?:here(?: is|'s| are)?,? .*|this \w+ is|these \w+ are) for you\b"),
    ("gift", r"(?:here, )?(?:take|accept|keep) (?:this|these) \w+ (?:as a (?:gift|present)|from me)\b"),
    ("deed", rf"{_I} {_DEED} (?!it\b|that\b){_THE} \w+"),
    ("taste", rf"i (?:really |truly )?(?:like|love|hate|adore|detest) {_WEAK}\w+"),
    ("taste", rf"i(?:'m| am) (?:afraid|scared|fond|allergic) (?:of|to) {_WEAK}\w+"),
    ("taste", r"my favou?rite \w+ is \w+"),
)


def extract_facts(line: str) -> list[tuple[str, str]]:
    """Take the facts out of what a player said.

    Returns:
        Kind (of `KINDS`) and the sentence, in its own words; no sentence twice.
    """
    if len(line) > _MAX_LINE:
        return []
    line = _STAGE.sub(" ", line.replace("\u2019", "'"))
    if has_markup(line) or _QUOTES.search(line) or _PLAY.search(line):
        return []
    found: dict[str, str] = {}
    for sentence in _statements(line):
        kind = _kind(sentence)
        if kind:
            found.setdefault(sentence, kind)
    return [(kind, sentence) for sentence, kind in found.items()]


def has_markup(text: str) -> bool:
    """Whether a text has signs of markers, macros, code, addresses or a script's speakers ("Guard: ...")."""
    return bool(_MARKUP.search(text)) or not text.replace("\n", " ").isprintable()


def _statements(line: str) -> Iterator[str]:
    """Sentences that end without a question; of those with one, what stands before it."""
    for match in _SENTENCE.finditer(line):
        sentence = " ".join(match[0].split())
        if "?" in sentence:
            before = _ASIDE.split(sentence, maxsplit=1)
            if len(before) < 2:
                continue
            sentence = before[0]
        if 0 < len(sentence) <= _MAX_SENTENCE:
            yield sentence


def _kind(sentence: str) -> str | None:
    plain = _LEAD.sub("", _ADDRESS.sub("", _LEAD.sub("", sentence))).strip()
    if _UNREAL.search(plain) or _REPORTED.search(plain):
        return None
    for kind, pattern in _PATTERNS:
        match = re.match(pattern, plain, re.IGNORECASE)
        if not match or (kind != "promise" and _DENIED.search(plain)):
            continue
        named, trade = match.groupdict().get("name"), match.groupdict().get("trade")
        if named and named.split()[0].casefold() in _NO_NAME.split():
            continue
        if trade and trade.casefold() not in _TRADES.split():
            continue
        return kind
    return None
