"""An innkeeper who rents rooms, sells stew and remembers debts in SQLite, played by the model inside the package.

python examples/innkeeper.py        a short evening, then what the book says
understudy chat --tools examples/innkeeper.py:TOOLS
"""

import sqlite3
from typing import Annotated, Literal

from pydantic import Field

from understudy.errors import ToolError
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.npc.world import default_world
from understudy.tools.functions import tool
from understudy.tools.loop import Event, Returned

BEDS = {"common": 6, "single": 2, "river": 1}
STEW_PENNIES = 3
LINES = (
    "Good evening! Is there a bed free?",
    "I'd like the single room for two nights, please.",
    "And two bowls of stew.",
    "I have no coin on me. Put six pennies on my slate, the name is Bren.",
    "How much do I owe you? My name is Bren.",
)


class Inn:
    """The state of the game: a book in SQLite."""

    def __init__(self, path: str = ":memory:") -> None:
        self.book = sqlite3.connect(path, isolation_level=None)
        self.book.execute("CREATE TABLE IF NOT EXISTS rooms (room TEXT, nights INTEGER)")
        self.book.execute("CREATE TABLE IF NOT EXISTS stew (bowls INTEGER)")
        self.book.execute("CREATE TABLE IF NOT EXISTS debts (guest TEXT, pennies INTEGER)")

    def rent_room(self, room: Literal["common", "single", "river"], nights: Annotated[int, Field(ge=1, le=30)]) -> dict:
        """Rent the player a bed at the Dry Boot."""
        taken = self._one("SELECT count(*) FROM rooms WHERE room = ?", room)
        if taken >= BEDS[room]:
            raise ToolError("That room is taken.")
        self.book.execute("INSERT INTO rooms VALUES (?, ?)", (room, nights))
        return {"ok": True, "room": room, "nights": nights, "beds_left": BEDS[room] - taken - 1}

    def sell_stew(self, bowls: Annotated[int, Field(ge=1, le=12)]) -> dict:
        """Serve the player bowls of eel stew."""
        self.book.execute("INSERT INTO stew VALUES (?)", (bowls,))
        return {"ok": True, "bowls": bowls, "price_pennies": bowls * STEW_PENNIES}

    def write_debt(self, guest: str, pennies: Annotated[int, Field(ge=1)]) -> dict:
        """Write what a guest owes on the slate."""
        self.book.execute("INSERT INTO debts VALUES (?, ?)", (guest, pennies))
        return {"ok": True, "owes_pennies": self.read_debt(guest)["owes_pennies"]}

    def read_debt(self, guest: str) -> dict:
        """Look up what a guest owes."""
        return {"owes_pennies": self._one("SELECT coalesce(sum(pennies), 0) FROM debts WHERE guest = ?", guest)}

    def _one(self, query: str, *values: str) -> int:
        return self.book.execute(query, values).fetchone()[0]


def tools_of(inn: Inn) -> list:
    return [tool(function) for function in (inn.rent_room, inn.sell_stew, inn.write_debt, inn.read_debt)]


TOOLS = tools_of(Inn())


def show(event: Event) -> None:
    if isinstance(event, Returned):
        print(f"  [{event.call.name} {event.call.arguments} -> {event.result.text}]")


def main() -> None:
    inn, world = Inn(), default_world()
    innkeeper = next(card for card in world.characters if card.id == "hettie")
    session = Session(innkeeper, player="Bren", tools=tools_of(inn))
    with Model.load() as model:
        for line in LINES:
            print(f"Bren: {line}")
            answer = "".join(session.say(line, model=model, on_event=show))
            print(f"{innkeeper.name}: {answer}")
    for table in ("rooms", "stew", "debts"):
        print(f"{table}: {inn.book.execute(f'SELECT * FROM {table}').fetchall()}")


if __name__ == "__main__":
    main()
