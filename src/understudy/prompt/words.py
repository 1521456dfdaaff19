"""English word lists of `second_person`, and how a verb is bent for "you"."""

import dataclasses

__all__ = [
    "ADVERBS",
    "AFTER_OBJECT",
    "BARE_VERBS",
    "BARRIERS",
    "CAUSING_VERBS",
    "CONTRACTIONS",
    "DETERMINERS",
    "KIN",
    "NOUN_OR_VERB",
    "NUMBERS",
    "OBJECT_VERBS",
    "PARTICIPLES",
    "PERSONS",
    "PRESENT_VERBS",
    "PRONOUNS",
    "STATES",
    "TITLES",
    "Pronouns",
    "base_form",
    "looks_finite",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pronouns:
    """The forms of one pronoun."""

    subject: str
    object: frozenset[str]
    possessive: frozenset[str]
    absolute: frozenset[str]
    reflexive: str

    @property
    def all(self) -> frozenset[str]:
        """All forms."""
        return self.object | self.possessive | self.absolute | {self.subject, self.reflexive}


def _pronouns(subject: str, object_: str, possessive: str, absolute: str, reflexive: str) -> Pronouns:
    return Pronouns(
        subject=subject,
        object=frozenset({object_}),
        possessive=frozenset({possessive}),
        absolute=frozenset({absolute} - {possessive}),
        reflexive=reflexive,
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PRONOUNS = {
    "he": _pronouns("he", "him", "his", "his", "himself"),
    "she": _pronouns("she", "her", "her", "hers", "herself"),
    "they": _pronouns("they", "them", "their", "theirs", "themselves"),
}
PERSONS = {
    **dict.fromkeys(
        _words("man boy lad gentleman lord king prince monk priest widower father uncle grandfather"), "he"
    ),
    **dict.fromkeys(_words("woman girl lass lady queen princess nun priestess widow mother aunt grandmother"), "she"),
}
TITLES = _words(
    "mr mrs ms miss dr doctor sir lady lord dame madam madame master mistress captain sergeant constable professor "
    "father mother brother sister old young aunt auntie uncle king queen prince princess the of de von van mayor "
    "major colonel commander lieutenant ensign abbot granny"
)
ADVERBS = _words(
    "never always still once only also often rarely seldom sometimes usually now then already just even ever soon "
    "almost nearly perhaps both either mostly twice not"
)
BARRIERS = _words(
    "who whom whose which that what when while because if whether where until before after though although as than "
    "whoever whatever whenever how why so unless"
)
DETERMINERS = _words(
    "the a an his her their its your my this that these those every each all no any some both it them him us nobody "
    "everybody anybody somebody everyone anyone someone everything anything something nothing people things what "
    "whatever how whether"
)
AFTER_OBJECT = _words(
    "in on at by to from with for of off up down out over under into onto across through behind beside between "
    "above below near after before during without against about around upon along past like as than and or but nor "
    "when while where who which that because if until since there here again alone asleep awake away back home is "
    "was has can could will would may might must had did does half bent deep"
)
CONTRACTIONS = {
    "isn't": "aren't",
    "wasn't": "weren't",
    "hasn't": "haven't",
    "doesn't": "don't",
}
_IRREGULAR = {"is": "are", "was": "were", "has": "have", "does": "do", "goes": "go", **CONTRACTIONS}
_KEPT = _words("always perhaps sometimes besides this his its thus us as yes plus less across towards")
_STRIP_ONE = _words("aches shoes hoes tiptoes caches lies dies ties vies")
_STRIP_TWO = _words("focuses")
# Present forms that may also be a plural: they are verbs only before a determiner or a pronoun.
NOUN_OR_VERB = _words(
    "prices orders names numbers questions lights keys knots hands smells watches hopes fears plans jokes promises "
    "tears drinks marks stamps stories notes plants paints pictures clocks sounds faces fires rules shoes nets "
    "nurses cooks guides houses schools ships boats ploughs hammers stores records rhymes charts pauses maps hooks "
    "pockets rings stitches rests heads guards pages steps doctors fishes sleeves mothers fathers coaches pilots "
    "shoulders eyes thumbs lies cares quotes cards dances comments"
)
_BASES = _words(
    "add address admire admit adore apologise apologize approve argue arrive ask avoid bake bargain bark bathe bear "
    "beat become beg begin believe belong bind bite blame blink blurt blush boast boil bow break breathe breed brew "
    "bribe bring brood build burn bury buy call can carry carve catch chat cheat check chew choose cite claim clean "
    "climb collect come change compare complain compose consult continue correct cough count cover crack creep "
    "criticise cross cry curse dare decide defend delight deliver demand deny describe despise detest die dig "
    "disapprove dislike distrust dive divide do dodge doubt draw dread dream dress drift drive drop earn eat "
    "embroider end enjoy envy exaggerate expect explain fail fall feed feel fetch fidget fight find finish fix "
    "flatter flinch flirt float fly fold follow forget forgive fret frown gamble gather get giggle give go gossip "
    "greet grieve grin grow grumble grunt guess hate hear help hesitate hide hint hire hold hum hunt hurry imagine "
    "insist insult interrupt introduce iron itch judge keep kick kill kiss kneel knit knock know labour lack laugh "
    "lead lean learn leave lecture lend let lie like limp listen live loathe long lose love make man mend measure "
    "mention mind misquote mishear mistrust mix mock mop mourn move mumble murmur mutter need nod notice nurse obey "
    "offer open overcharge overhear owe own pace pack pause pay peel pick pity play pluck polish pour praise pray "
    "preach prefer prescribe pretend prize proceed protect prove pull push put quarrel quote raise ramble reach "
    "read recall recite reckon refer refuse regard regret relish remember remind remove rent repair repeat rephrase "
    "report resent resist respect retell retreat return revere ride rise roll round row rub run save say scold "
    "scorn scrub search see seek seem sell send serve set settle sew shake share sharpen shave shorten shine shoot "
    "shout show shrug shut sigh sing sink sit sketch skip slam sleep slide slip smell smile smoke smooth smuggle "
    "snap snarl sneer sneeze sniff snore sort speak spell spend spit spoil stammer stand stare start state stay "
    "steal step sting stir stop stow strike stroke struggle study stumble suffer suspect swallow swear sweep swell "
    "swim swing take talk tally tap taste teach tease tell tend test thank think threaten throw tie tilt tip toast "
    "touch trade trail train travel treat tremble trust try tuck turn twist understand undertake unfold use value "
    "visit vote vow wait wake walk wander want warm warn wash waste watch wear weave weep weigh whisper whistle win "
    "wind wink wipe wish wonder work worry worship wrap write yawn yell yield carries answer name price number "
    "question light look hope fear joke promise mother plan order mark stamp note plant paint sound cut face rule "
    "net cook guide guard care record rhyme"
)
PARTICIPLES = _words("been got had done gone seen come become grown lost made taken told")
# "she's tired" is no perfect.
STATES = _words(
    "tired scared frightened worried married retired bored interested excited called named needed gifted skilled hated "
    "feared wanted armed bearded cursed doomed haunted exhausted determined convinced annoyed pleased amused used"
)
OBJECT_VERBS = _words(
    "find finds found meet meets met see sees saw seen catch catches caught hear hears heard watch watches watched "
    "keep keeps kept spot spots spotted leave leaves left discover discovers discovered notice notices noticed"
)
# "made her cry": what is named here is done by her.
CAUSING_VERBS = _words("make makes made hear hears heard let lets saw seen watched help helps helped")
NUMBERS = _words(
    "eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty "
    "fifty sixty seventy eighty ninety"
)
KIN = _words(
    "daughter son widow widower wife husband brother sister mother father first second third fourth fifth last "
    "keeper heir child"
)
_MODALS = _words("can can't cannot could couldn't would wouldn't will won't must may might should had did")
_PAST = _words(
    "came took went was were had did said told kept gave made found lost left ran sat stood fell knew saw got grew "
    "brought bought built caught cut drew drank drove ate fought flew forgot hid held hurt laid led learned learnt "
    "lent lit meant met paid put quit read rode rose sold sent set shut sang slept spoke spent stole swam swore "
    "taught thought threw understood woke wore won wrote became began broke chose dug"
)


def base_form(verb: str) -> str:
    """The form that stands with "you": "keeps" gives "keep"; past forms and modals stay."""
    low = verb.lower().replace("\u2019", "'")
    if low in _IRREGULAR:
        return _IRREGULAR[low]
    if low in _KEPT or not low.endswith("s") or len(low) < 4 or low.endswith(("ss", "us", "is", "'s")):
        return verb
    if low in _STRIP_ONE:
        return verb[:-1]
    if low.endswith("ies"):
        return verb[:-3] + "y"
    if low.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")) or low in _STRIP_TWO:
        return verb[:-2]
    return verb[:-1]


def _present(base: str) -> str:
    if base.endswith(("s", "sh", "ch", "x", "z", "o")):
        return base + "es"
    if base.endswith("y") and base[-2:-1] not in "aeou":
        return base[:-1] + "ies"
    return base + "s"


BARE_VERBS = frozenset(_BASES) - _words("care charm face fear hope light look love mark name smell work")
PRESENT_VERBS = frozenset(_present(base) for base in _BASES if base not in ("can", "do"))


def looks_finite(low: str) -> bool:
    """Whether a word can be a verb right after its subject."""
    return (
        low in _MODALS
        or low in _PAST
        or low in _IRREGULAR
        or low in PRESENT_VERBS
        or low.endswith("ed")
        or (low in ("have", "are", "do"))
    )
