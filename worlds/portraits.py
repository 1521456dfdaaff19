"""Draw a portrait for each character of a world and put its card into it.

Usage: python worlds/portraits.py [FOLDER ...]; default: the sample world inside the package. Writes cards/ID.png.
What is drawn comes from the words of the card (hair, hat, beard, clothes, trade); what it does not say, from its name.
"""

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

from understudy.npc.card import Card
from understudy.npc.draw import draw
from understudy.npc.png import encode_rgb
from understudy.npc.world import load_world

PACKAGED = Path(__file__).parents[1] / "src" / "understudy" / "npc" / "harrowmere"
CELLS, SCALE = 48, 6
Color = tuple[int, int, int]
Says = Callable[[str], bool]

SKINS: tuple[Color, ...] = ((244, 208, 177), (228, 178, 140), (198, 142, 104), (150, 100, 70), (108, 70, 50))
HAIRS: tuple[Color, ...] = ((58, 40, 32), (96, 60, 36), (150, 92, 44), (196, 150, 84), (40, 40, 48))
TINCTURES: tuple[tuple[Color, Color], ...] = (
    ((70, 98, 122), (88, 120, 144)),
    ((122, 72, 66), (144, 90, 80)),
    ((82, 104, 74), (102, 126, 90)),
    ((104, 84, 120), (124, 104, 140)),
    ((134, 112, 72), (156, 134, 90)),
)
CLOTHES: tuple[Color, ...] = ((92, 70, 54), (70, 84, 70), (98, 62, 58), (64, 70, 92), (112, 98, 70))
CLOTH_WORDS: dict[str, Color] = {
    "dove-grey": (150, 152, 160),
    "blue robe": (58, 92, 140),
    "mustard-yellow": (202, 160, 52),
    "hundred patches": (110, 92, 74),
    "green-stained": (84, 116, 78),
    "blacksmith": (84, 66, 56),
    "watch": (62, 72, 104),
    "innkeeper": (158, 96, 84),
    "scholar": (72, 66, 84),
}
STRAW, LEATHER, GREY, WHITE, INK = (216, 186, 112), (98, 72, 50), (150, 150, 150), (236, 234, 226), (44, 36, 36)
SIGNS = {  # a word of the role, and its sign on the shield
    "innkeeper": ("..XXXX..", "..XXXXX.", "..XXXX.X", "..XXXX.X", "..XXXXX.", "..XXXX..", "..XXXX..", "........"),
    "blacksmith": (".XXXXXX.", ".XXXXXX.", ".XXXXXX.", "...XX...", "...XX...", "...XX...", "...XX...", "...XX..."),
    "sergeant": ("...XX...", "...XX...", "XXXXXXXX", ".XXXXXX.", "..XXXX..", ".XXXXXX.", ".XX..XX.", "X......X"),
    "herbalist": ("....XXX.", "..XXXXX.", ".XXXXXX.", ".XXXXX..", ".XXXX...", "..X.....", ".X......", "X......."),
    "ferryman": ("......XX", ".....XXX", "....XXX.", "....X...", "...X....", "X.X..XX.", ".XX.X..X", "X..X...."),
    "pickpocket": ("..XXXX..", ".X....X.", "X..XX..X", "X.X....X", "X.X....X", "X..XX..X", ".X....X.", "..XXXX.."),
    "scholar": ("........", "XXX..XXX", "X.XXXX.X", "X..XX..X", "X..XX..X", "XXXXXXXX", "...XX...", "........"),
    "beekeeper": ("..X..X..", "...XX...", ".XXXXXX.", "XX.XX.XX", "XXXXXXXX", "...XX...", "..XXXX..", "...XX..."),
    "merchant": ("...XX...", ".XXXXXX.", ".X.XX.X.", "X..XX..X", "XXXXXXXX", "...XX...", "...XX...", ".XXXXXX."),
    "priest": ("...XX...", "...XX...", "..XXXX..", ".XXXXXX.", ".XX.XXX.", ".XX.XXX.", "..XXXX..", "........"),
    "rat-catcher": ("........", ".XX.....", "XXXX..XX", "XXXXXXXX", ".XXXXXXX", "..X.X..X", "........", "........"),
    "minstrel": ("....XXXX", "....X..X", "....X..X", "....X..X", ".XXXX.XX", "XXXX.XXX", ".XX...X.", "........"),
}
SHIELD = ("XXXXXXXXXXXX",) * 9 + ("XXXXXXXXXXXX", ".XXXXXXXXXX.", "..XXXXXXXX..", "...XXXXXX...", ".....XX.....")


class Canvas:
    """Square cells of colour."""

    def __init__(self, sky: Color, ground: Color) -> None:
        self.cells = [[sky if x < CELLS // 2 else ground for x in range(CELLS)] for _ in range(CELLS)]

    def ellipse(self, x: float, y: float, width: float, height: float, color: Color, *, below: float = 99) -> None:
        """Fill an ellipse around a point, down to a row; its right side is in shadow."""
        for row in range(CELLS):
            for column in range(CELLS):
                far = ((column + 0.5 - x) / width) ** 2 + ((row + 0.5 - y) / height) ** 2
                if far <= 1 and row < below:
                    self.cells[row][column] = shaded(color, 0.86) if column + 0.5 > x + width * 0.45 else color

    def box(self, x: int, y: int, width: int, height: int, color: Color) -> None:
        """Fill a box."""
        for row in range(max(y, 0), min(y + height, CELLS)):
            for column in range(max(x, 0), min(x + width, CELLS)):
                self.cells[row][column] = color

    def stamp(self, x: int, y: int, rows: tuple[str, ...], color: Color) -> None:
        """Set the cells marked X."""
        for row, line in enumerate(rows):
            for column, mark in enumerate(line):
                if mark == "X":
                    self.cells[y + row][x + column] = color

    def png(self) -> bytes:
        """The picture."""
        rows = [b"".join(bytes(cell) * SCALE for cell in row) for row in self.cells]
        return encode_rgb([row for row in rows for _ in range(SCALE)])


def shaded(color: Color, share: float) -> Color:
    red, green, blue = (min(255, round(part * share)) for part in color)
    return red, green, blue


def portrait(card: Card) -> bytes:
    """Draw a character by the words of its card."""
    said = f"{card.role} {card.description}".lower()

    def says(pattern: str) -> bool:
        return re.search(rf"\b(?:{pattern})\b", said) is not None

    def luck(what: str, options: int) -> int:
        return int(draw(0, card.name, what) * options)

    is_child = says("child|girl of|boy of")
    is_woman = says("woman|girl")
    width = 1.18 if says("a round|plump|huge|broad") else 0.86 if says("thin|skinny|wiry|stringy|stooped") else 1.0
    skin = SKINS[luck("skin", 3)]
    is_old = re.search(r"\b(?:of|man|woman) (?:fifty|sixty|seventy|eighty)", said) is not None
    hair = WHITE if says("white beard|white hair") else GREY if is_old or says("grey") else HAIRS[luck("hair", 5)]
    if says("dove-grey"):
        hair = HAIRS[luck("hair", 5)]
    cloth = next((color for words, color in CLOTH_WORDS.items() if words in said), CLOTHES[luck("cloth", 5)])
    canvas = Canvas(*TINCTURES[luck("field", 5)])
    top = 22.5 if is_child else 20.0
    face = (7.6 if is_child else 8.0) * (0.5 + width / 2), 9.0 if is_child else 10.0
    if is_woman and not says("cropped"):
        canvas.ellipse(24, top + 3, face[0] + 3.2, face[1] + (5 if luck("long", 2) else 2), shaded(hair, 0.8))
    body(canvas, width * (0.8 if is_child else 1.0), cloth, says)
    canvas.box(21, round(top + 7), 6, 7, shaded(skin, 0.8))
    canvas.ellipse(24, top, *face, skin)
    head(canvas, top, face, hair, says, is_woman=is_woman)
    features(canvas, round(top), skin, hair, says)
    hats(canvas, top, face, says)
    sign = next((rows for word, rows in SIGNS.items() if word in card.role), None)
    if sign:
        canvas.stamp(2, 31, SHIELD, (52, 44, 44))
        canvas.stamp(3, 30, ("XXXXXXXXXX",), (52, 44, 44))
        canvas.stamp(4, 33, sign, (230, 214, 170))
    return canvas.png()


def body(canvas: Canvas, width: float, cloth: Color, says: Says) -> None:
    canvas.ellipse(24, 50, 19 * width, 17, cloth)
    for x, y, color in (
        (14, 40, (150, 96, 70)),
        (29, 43, (88, 110, 120)),
        (20, 45, (150, 132, 84)),
        (33, 39, (96, 78, 108)),
    ):
        if says("patches"):
            canvas.box(x, y, 4, 4, color)
    if says("robe|collar|innkeeper"):
        canvas.stamp(19, 34, ("XX......XX", ".XXX..XXX.", "..XXXXXX..", "...XXXX..."), WHITE)
    if says("blacksmith|flour"):
        canvas.box(18, 39, 12, 9, shaded(WHITE, 0.94) if says("flour") else LEATHER)
    if says("silver rings|elegant"):
        canvas.stamp(19, 35, ("X.X.X.X.X.", ".X.X.X.X..", "...XXX....", "....X....."), (214, 214, 226))
    if says("ferret"):
        canvas.ellipse(24, 36, 12, 3.2, (196, 170, 130))
        canvas.ellipse(35, 34.5, 3.4, 2.8, (206, 182, 144))
        canvas.box(36, 34, 1, 1, INK)
        canvas.box(31, 36, 2, 3, (176, 60, 80))
    if says("lute"):
        canvas.ellipse(39, 42, 7, 6, (150, 98, 52))
        canvas.ellipse(39, 42, 2, 2, INK)
        canvas.box(31, 37, 6, 2, LEATHER)


def head(canvas: Canvas, top: float, face: tuple[float, float], hair: Color, says: Says, *, is_woman: bool) -> None:
    wide, high = face
    if says("balding|bald"):
        canvas.box(round(24 - wide), round(top - 2), 2, 6, hair)
        canvas.box(round(24 + wide) - 2, round(top - 2), 2, 6, hair)
    else:
        low = top - (high * 0.58 if says("cropped") else high * 0.42)
        canvas.ellipse(24, top - 1.2, wide + 0.8, high + 0.6, hair, below=low)
        if not says("cropped"):
            canvas.box(round(24 - wide - 1), round(low) - 1, 2, 9 if is_woman else 4, hair)
            canvas.box(round(24 + wide) - 1, round(low) - 1, 2, 9 if is_woman else 4, shaded(hair, 0.86))
    if says("beard"):
        canvas.ellipse(24, top + 8, wide * 0.94, 8, hair)
        canvas.ellipse(24, top - 1, wide * 0.9, 6.4, canvas.cells[round(top) - 1][20])


def features(canvas: Canvas, top: int, skin: Color, hair: Color, says: Says) -> None:
    for x in (20, 26):
        canvas.box(x - 1, top - 4, 4, 1, shaded(hair, 0.7))
        is_blind = says("milky") and x == 26
        canvas.box(x, top - 1, 2, 2, (206, 216, 222) if is_blind else INK)
        canvas.box(x, top - 1, 1, 1, WHITE)
        if says("spectacles"):
            canvas.stamp(x - 1, top - 2, ("XXXX", "X..X", "X..X", "XXXX"), (206, 178, 92))
    if says("spectacles"):
        canvas.box(23, top - 1, 2, 1, (206, 178, 92))
    canvas.box(23, top + 1, 2, 2, shaded(skin, 0.82))
    if says("moustache"):
        canvas.stamp(19, top + 4, ("..XXXXXX..", "XXXX..XXXX"), hair)
    canvas.box(21, top + 5 + says("moustache"), 6, 1, (150, 76, 70))
    if says("missing front teeth|gap in (?:his|her) teeth"):
        canvas.box(21, top + 5, 6, 2, (150, 76, 70))
        canvas.stamp(21, top + 5, ("XX..XX",), WHITE)
    if says("ink on his chin"):
        canvas.stamp(25, top + 7, ("XX", ".X"), (50, 56, 110))
    if says("plump|a round"):
        for x in (18, 28):
            canvas.box(x, top + 3, 2, 1, (222, 140, 124))


def hats(canvas: Canvas, top: float, face: tuple[float, float], says: Says) -> None:
    wide, high = face
    brim = round(top - high * 0.5)
    if says("straw hat") or says("hat with"):
        color = STRAW if says("straw hat") else LEATHER
        canvas.ellipse(24, brim, wide + 0.5, 8, color, below=brim)
        canvas.box(round(24 - wide - 5), brim - 1, round(2 * wide + 10), 2, shaded(color, 0.82))
        canvas.box(round(24 - wide), brim - 3, round(2 * wide), 2, (120, 60, 52))
    if says("feather"):
        canvas.stamp(
            32, brim - 11, ("....XX", "...XXX", "..XXX.", "..XX..", ".XXX..", ".XX...", "XX....", "X....."), WHITE
        )
    if says("cap"):
        canvas.ellipse(24, brim + 1, wide + 2, 7, (62, 72, 104), below=brim + 1)
        canvas.box(round(24 - wide - 2), brim, round(2 * wide + 8), 2, (44, 52, 78))
        canvas.box(23, brim - 4, 3, 3, (206, 178, 92))


def main(folders: list[str]) -> None:
    """Write the cards of each folder."""
    for folder in map(Path, folders or [str(PACKAGED)]):
        (folder / "cards").mkdir(exist_ok=True)
        for card in load_world(folder).characters:
            path = folder / "cards" / f"{card.id}.png"
            dataclasses.replace(card, picture=portrait(card)).save(path, version="v3")
            print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
