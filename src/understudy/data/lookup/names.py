"""Random names of people, places, shops and other things."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from .text import capital

T = TypeVar("T")

# Each style: starts, middles, endings. A name is start + (middle) + ending.
_STYLES: tuple[tuple[str, str, str], ...] = (
    (
        "ba be bo bra bre da de do dra ga ge gri ha he ho ka ke ko la li lo ma me mi mo na ne ni pa "
        "pe ra re ri ro sa se si ta te ti to va ve vi wa we wi ya yo za ze",
        "la le li lo ma me mi mo na ne ni ra re ri ro sa se si ta te ti va ve vi za ka ko da de du",
        "n na ra rin rel lin la mir ma na sa ta th vin ric dan don mund ler ri ny lia nia ra s",
    ),
    (
        "Al An Ar As Bel Ber Bran Bren Cal Cor Dag Del Dor Ed El Er Fen Fin Gar Gil Gor Hal Har Hel "
        "Il In Jar Jor Kel Ker Lan Len Lor Mal Mar Mer Mor Nor Ol Or Per Quil Ran Ren Ros Sal Sel "
        "Sol Tal Tar Tor Ul Val Var Ver Vor Wil Wyn Yar Yor Zan Zel",
        "a e i o an en in ar er or el il am em ad ed is as",
        "da dan den dil din dor drin fa fen ga gar gin ka kan kin la lan len lin lo ma men mir mond na "
        "nor ra ric rik rin sa sha ta tan tha thor tin va van vek vin wen wick win ya",
    ),
    (
        "A E I O U Ai Ei Ka Ki Ku Ha Hi Mi Mo Na No Ri Ru Sa Shi Su Ta To Ya Yu Za Zu Chi Ji Ama Iri "
        "Oli Uma Ela Ani",
        "ka ki ko ma mi mo na ni no ra ri ro sa se shi ta te to ya yu ha ho wa la lu ne",
        "ka ki ko ku mi na ne no ra ri ro ru sa sha shi su ta to ya yo ja la li lu",
    ),
    (
        "Gr Kr Br Dr Tr Sk St Thr Sn Vr Gn Zh Kh Bl Cl Fl Pl Sl Sw Sp Tw Fr Wr Qu Sh Ch Th",
        "a e i o u a e i o u ee oo ai",
        "b bba ck d dda dge ff g gga ggin ll lla m mble mp n nda nk nt p pper r rg rk rn rt rum sk ss "
        "st t tch th tter v x zz zzik ggle",
    ),
    (
        "Am Aure Ca Cassi Cle Cyr Da Dio Eu Fla Gala Hel Io Ju Kal Lu Lysa Mari Nico Oct Pa Phi Qui "
        "Ru Sa Sere Syl Thea Ti Ursu Va Vesp Xan Zeno",
        "ri li ni di do la lo ra ro na ne ta ve mi ci phi the",
        "a as er es ia ian io is ius o on or us ra na la ne na x",
    ),
)  # fmt: skip

_GIVEN = ["Ada", "Agnes", "Aisha", "Akira", "Alba", "Albert", "Alice", "Amara", "Amos", "Ana", "Anders", "Anja", "Anton", "Arlo", "Asha", "Astrid", "Audrey", "Basil", "Beatrix", "Ben", "Berta", "Bianca", "Boris", "Bruno", "Carmen", "Cedric", "Clara", "Clement", "Conrad", "Cora", "Dara", "Desmond", "Dina", "Dora", "Edda", "Edgar", "Edith", "Edmund", "Elena", "Eli", "Elsa", "Emeka", "Emil", "Enid", "Erik", "Esme", "Ester", "Ezra", "Farid", "Fatima", "Felix", "Fergus", "Finn", "Flora", "Freya", "Frida", "Gareth", "Gerda", "Gideon", "Gita", "Greta", "Gus", "Hana", "Hanna", "Harald", "Hassan", "Hazel", "Hector", "Henrik", "Hilda", "Hugo", "Ida", "Idris", "Ignacio", "Ilse", "Imani", "Ines", "Ingrid", "Irma", "Isaac", "Ivan", "Ivo", "Jack", "Jana", "Jasper", "Joan", "Jonas", "Josef", "Judith", "Juna", "Kai", "Karim", "Karla", "Kira", "Klaus", "Kofi", "Lars", "Laszlo", "Leila", "Lena", "Leo", "Leon", "Lidia", "Lino", "Lotte", "Lucia", "Ludo", "Luisa", "Lukas", "Mabel", "Magda", "Maia", "Malik", "Marcus", "Marek", "Marta", "Martin", "Maud", "Mei", "Mikko", "Milo", "Mina", "Mira", "Mona", "Moses", "Nadia", "Nando", "Ned", "Nell", "Nico", "Nils", "Nina", "Noor", "Nora", "Odette", "Odo", "Olaf", "Olga", "Omar", "Oscar", "Otto", "Pablo", "Paula", "Pavel", "Pedro", "Penny", "Petra", "Pia", "Pip", "Polly", "Priya", "Quentin", "Rafael", "Ravi", "Rita", "Rolf", "Rosa", "Rufus", "Ruth", "Sam", "Samir", "Sara", "Selma", "Sofia", "Stefan", "Stella", "Sunil", "Sven", "Tamar", "Tariq", "Tess", "Theo", "Tilda", "Tobias", "Tom", "Tova", "Ulf", "Ulla", "Una", "Ursula", "Vera", "Viktor", "Viola", "Walter", "Wanda", "Wilma", "Xenia", "Yara", "Yuki", "Yusuf", "Zane", "Zara", "Zelda", "Zoe"]  # fmt: skip

_SUR_LEFT = ["Ash", "Marl", "Thorn", "Oak", "Elm", "Birch", "Fern", "Moss", "Reed", "Rush", "Stone", "Flint", "Clay", "Salt", "Sand", "Silver", "Copper", "Iron", "Gold", "Tin", "Black", "White", "Grey", "Green", "Red", "Brown", "Long", "Short", "Broad", "Old", "New", "High", "Low", "Hill", "Dale", "Brook", "Lake", "Mill", "Wheat", "Barley", "Rye", "Honey", "Apple", "Plum", "Pear", "Cherry", "Bramble", "Hazel", "Holly", "Ivy", "Heather", "Clover", "Wolf", "Fox", "Hare", "Otter", "Badger", "Crow", "Rook", "Raven", "Swan", "Heron", "Finch", "Lark", "Owl", "Hawk", "Wren", "Bull", "Lamb", "Hart", "Storm", "Rain", "Snow", "Frost", "Wind", "Sun", "Moon", "Star", "Night", "Day", "Winter", "Summer", "Candle", "Lantern", "Bell", "Harp", "Kettle", "Barrel", "Button", "Penny", "Hollow", "Under", "Over", "Fair", "Good", "True", "Swift", "Cold", "Bright", "Dust", "Ember", "Cinder", "Smoke", "Tar", "Rope", "Sail", "Anchor", "Wick", "Quill"]  # fmt: skip
_SUR_RIGHT = ["wick", "pit", "field", "ford", "ham", "ton", "well", "wood", "worth", "bury", "brook", "dale", "ley", "ridge", "smith", "wright", "man", "son", "ward", "foot", "hand", "bottom", "thorn", "berry", "leaf", "root", "bark", "shaw", "croft", "gate", "lock", "house", "stead", "land", "more", "mere", "pool", "water", "stone", "hill", "cliff", "bank", "shore", "bridge", "way", "path", "step", "tree", "bush", "vane", "heart", "mantle", "cloak", "hood", "ring", "pin", "spoon", "kettle", "fellow", "kin", "barrow", "mead", "ling"]  # fmt: skip
_PLACE_RIGHT = ["ford", "ham", "ton", "wick", "dale", "mere", "mouth", "holm", "haven", "gate", "wold", "fell", "burn", "strand", "port", "cliff", "moor", "marsh", "hollow", "bridge", "wood", "field", "bury", "stead", "combe", "cross", "water", "garth", "hold", "watch", "rest", "end", "side", "pool", "crag", "reach"]  # fmt: skip
_PLACE_WORDS = ["Low Weir", "High Weir", "Long Water", "Cold Harbour", "Old Quay", "Dry Well", "Far Reach", "Three Oaks", "Seven Steps", "Lower Deck", "North Lock", "Kiln Row", "Salt Row", "Bell Yard", "Rope Lane", "Crooked Mile", "Broken Tower", "Green Hollow", "White Cliff", "Red Canyon", "Black Pool", "Still Lake", "Windy Gap", "Deep Delve", "Upper Fold", "Nether Fold", "Grey Sands", "Copper Hill", "Lantern Street", "Fishers Point", "Dead Horse Creek", "Hollow Moon", "Glass Desert", "Amber Bay"]  # fmt: skip
_ADJ = ["Copper", "Silver", "Golden", "Iron", "Crooked", "Broken", "Laughing", "Sleeping", "Drunken", "Merry", "Quiet", "Lonely", "Lucky", "Hungry", "Thirsty", "Dancing", "Singing", "Blue", "Red", "Green", "White", "Black", "Grey", "Yellow", "Purple", "Old", "Last", "First", "Lost", "Jolly", "Sly", "Wandering", "Flying", "Limping", "Blind", "Happy", "Salty", "Dusty", "Rusty", "Burning", "Frozen", "Painted", "Hidden", "Little", "Tall", "Proud", "Humble", "Honest", "Gilded", "Velvet", "Wooden", "Tin", "Brass", "Amber", "Crystal", "Hollow", "Tipsy", "Snoring", "Whistling", "Smiling", "Winking", "Running", "Leaping", "Barking", "Patient", "Leaky", "Cracked", "Warm", "Spotted", "Striped", "Two-Headed", "One-Eyed", "Three-Legged", "Sunken", "Bent", "Gentle"]  # fmt: skip
_NOUN = ["Heron", "Fox", "Badger", "Otter", "Owl", "Goose", "Duck", "Swan", "Crow", "Raven", "Hare", "Stag", "Boar", "Bear", "Wolf", "Cat", "Hound", "Goat", "Ram", "Bull", "Ox", "Pony", "Mule", "Donkey", "Trout", "Salmon", "Pike", "Eel", "Crab", "Lobster", "Whale", "Toad", "Frog", "Snail", "Bee", "Moth", "Beetle", "Lantern", "Candle", "Kettle", "Barrel", "Bucket", "Anchor", "Compass", "Wheel", "Bell", "Drum", "Fiddle", "Harp", "Pipe", "Crown", "Thimble", "Needle", "Boot", "Hat", "Glove", "Button", "Spoon", "Ladle", "Pot", "Pan", "Mug", "Flagon", "Tankard", "Loaf", "Turnip", "Pumpkin", "Apple", "Pear", "Plum", "Acorn", "Thistle", "Rose", "Lily", "Oak", "Willow", "Anvil", "Hammer", "Shield", "Sword", "Arrow", "Axe", "Plough", "Sickle", "Moon", "Star", "Comet", "Sun", "Cloud", "Feather", "Mermaid", "Giant", "Dwarf", "Knight", "Monk", "Sailor", "Piper", "Miller", "Ghost", "Dragon", "Griffin", "Rocket", "Satellite", "Robot", "Piston"]  # fmt: skip
_STATION = (
    "Station", "Outpost", "Dock", "Harbour", "Base", "Ring", "Colony", "Camp", "Keep", "Abbey", "Fort",
    "Landing", "Junction", "Point", "Bay", "Island", "Valley", "Village", "Market", "Square", "Heights",
)  # fmt: skip
_TITLES = (
    "Captain", "Old", "Sister", "Brother", "Doctor", "Master", "Mother", "Father", "Lady", "Lord", "Sir",
    "Aunt", "Uncle", "Sergeant", "Granny", "Professor", "Chief", "Little", "Big", "Mistress",
)  # fmt: skip


_SKIP_MIDDLE = (0.5, 0.5, 0.4, 0.0, 0.5)  # per style: how often a name has no middle
_UGLY = re.compile(
    r"([aiu])\1|[bcdfghjklmnpqrstvwxz]{5}|anus|shit|cum|cunt|dick|cock|fuk|fuck|tit|nig|neg|rape|"
    r"slut|poo|kak|puta|porn|penis|sex|homo|nazi|hitl|fag|peni"
)


def _joins(start: str, end: str) -> bool:
    """Whether start and end can stand together without a middle."""
    if len(start) + len(end) < 4:
        return False
    open_start, open_end = start[-1] in "aeiouy", end[0] in "aeiouy"
    return open_start != open_end or (len(end) > 1 and not open_end and end[1] in "aeiouy")


class NameMaker:
    """Makes random names; all chance comes from the given source."""

    def __init__(self, rng: random.Random) -> None:
        """Splits the syllable lists once.

        Args:
            rng: the source of chance.
        """
        self._rng = rng
        self._styles = tuple(tuple(part.split() for part in style) for style in _STYLES)

    def choice(self, items: Sequence[T]) -> T:
        """Picks one of the items."""
        return items[int(self._rng.random() * len(items))]

    def syllabic(self) -> str:
        """A made-up name of one to three syllables."""
        pick = self._rng.random
        while True:
            at = int(pick() * len(self._styles))
            starts, middles, ends = self._styles[at]
            start = starts[int(pick() * len(starts))]
            end = ends[int(pick() * len(ends))]
            middle = middles[int(pick() * len(middles))]
            if pick() < _SKIP_MIDDLE[at] and _joins(start, end):
                middle = ""
            name = (start + middle + end).lower()
            if not _UGLY.search(name):
                return name[0].upper() + name[1:]

    def first(self) -> str:
        """A first name, often made up, sometimes a common one."""
        if self._rng.random() < 0.3:
            return self._rng.choice(_GIVEN)
        return self.syllabic()

    def surname(self) -> str:
        """A surname: a compound such as "Marlpit" or a made-up one."""
        rng = self._rng
        if rng.random() < 0.55:
            return self._compound(_SUR_RIGHT)
        return self.syllabic()

    def _compound(self, rights: list[str]) -> str:
        rng = self._rng
        left = rng.choice(_SUR_LEFT)
        right = rng.choice(rights)
        while right == left.lower() or right[0] == left[-1]:
            right = rng.choice(rights)
        return left + right

    def parts(self) -> tuple[str, str]:
        """A character's name and the first name in it."""
        rng = self._rng
        first = self.first()
        dice = rng.random()
        if dice < 0.6:
            return f"{first} {self.surname()}", first
        if dice < 0.85:
            return first, first
        if dice < 0.95:
            return f"{rng.choice(_TITLES)} {first}", first
        return f"{rng.choice(_TITLES[:1] + _TITLES[4:6])} {first} {self.surname()}", first

    def person(self) -> str:
        """A full name of somebody."""
        return self.parts()[0]

    def place(self) -> str:
        """A town or region."""
        rng = self._rng
        dice = rng.random()
        if dice < 0.3:
            return self._compound(_PLACE_RIGHT)
        if dice < 0.5:
            return self.syllabic() + rng.choice(("", "", "holt", "by", "stad", "mark", "heim", "burg", "ia"))
        if dice < 0.7:
            stem = self.syllabic()
            return stem + (rng.choice(_PLACE_RIGHT) if len(stem) < 7 else "")
        if dice < 0.8:
            return f"{rng.choice((self.surname(), rng.choice(_NOUN), self.syllabic()))} {rng.choice(_STATION)}"
        if dice < 0.9:
            return f"{rng.choice(('Upper', 'Lower', 'New', 'Old', 'North', 'Great', 'Little', 'Port', 'Saint'))} {self.syllabic()}"
        return rng.choice(_PLACE_WORDS)

    def shop(self) -> str:
        """An inn or shop such as "the Copper Heron"."""
        rng = self._rng
        dice = rng.random()
        if dice < 0.7:
            return f"the {rng.choice(_ADJ)} {rng.choice(_NOUN)}"
        if dice < 0.9:
            one, two = rng.sample(_NOUN, 2)
            return f"the {one} and {two}"
        return f"the {rng.choice(_NOUN)}"

    def of_kind(self, words: tuple[str, ...]) -> Callable[[], str]:
        """A generator of named things such as "the Varnholt ferry" or "Ashwick Bridge"."""

        def make() -> str:
            rng = self._rng
            word = rng.choice(words)
            dice = rng.random()
            stem = self.surname() if rng.random() < 0.5 else self.syllabic()
            if dice < 0.5:
                return f"the {stem} {word}"
            if dice < 0.65:
                return f"the {self.place()} {word}"
            if dice < 0.85:
                return f"the {rng.choice(_ADJ)} {capital(word)}"
            return f"the {rng.choice(_NOUN)} {capital(word)}"

        return make

    def ship(self) -> str:
        """A ship's name such as "the Salty Otter"."""
        rng = self._rng
        if rng.random() < 0.4:
            return f"the {self.syllabic()}"
        return self.shop()
