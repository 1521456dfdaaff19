"""An innkeeper who rents rooms, sells stew and remembers debts in SQLite, played by the model inside the package.

python examples/innkeeper.py                thirty turns by a script, then what the book says
python examples/innkeeper.py BOOK.db        the same with a book that lasts: run it twice, she remembers
understudy chat --tools examples/innkeeper.py:TOOLS

A call is always well-formed, but a model of 14 million parameters takes the wrong function now and then, and may say
a price that is in no book. So the game keeps the last word, in three places: the functions know the rules
(`ToolError`), `refuse` stops a call with numbers that the player never said, and where the words do not agree with
the results, the game says it plainly instead.
"""

import dataclasses
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from understudy.engine import SamplingParams
from understudy.errors import ToolError
from understudy.npc.card import Card
from understudy.npc.model import Model
from understudy.npc.npc import NpcOptions
from understudy.prompt import Message, ToolCall
from understudy.tools.functions import FunctionTool, tool
from understudy.tools.loop import Event, Returned

ROOMS = {"common": (6, 2), "single": (2, 5), "river": (1, 8)}  # beds, pennies a night
STEW_PENNIES = 3
MOST_ON_THE_SLATE = 60

# What the player says, and the function that it asks for.
EVENING: tuple[tuple[str, str | None], ...] = (
    ("Good evening!", None),
    ("I'd like the single room for two nights, please.", "rent_room"),
    ("A bowl of stew, please. Just one.", "sell_stew"),
    ("How are you tonight?", None),
    ("How much do I owe you?", "read_debt"),
    ("Here, I pay five pennies.", "pay_debt"),
    ("Two bowls of stew for me and my friend.", "sell_stew"),
    ("What is your name?", None),
    ("My friend needs a bed too. The common room for one night.", "rent_room"),
    ("What do I owe now?", "read_debt"),
    ("I want to pay ten pennies of my debt.", "pay_debt"),
    ("Thank you!", None),
    ("Three bowls of stew for the ferrymen.", "sell_stew"),
    ("Rent me the river room for three nights.", "rent_room"),
    ("Rent me the river room for one night.", "rent_room"),
    ("Please look up what I owe.", "read_debt"),
    ("I pay you twenty pennies.", "pay_debt"),
    ("It is raining hard outside.", None),
    ("Four bowls of stew, please.", "sell_stew"),
    ("I'd like a single room for four nights.", "rent_room"),
    ("Serve me two bowls of eel stew.", "sell_stew"),
    ("What is on my slate?", "read_debt"),
    ("I pay you ninety pennies.", "pay_debt"),
    ("Do you like music?", None),
    ("A bed in the common room for two nights.", "rent_room"),
    ("Five bowls of stew!", "sell_stew"),
    ("How much is my debt?", "read_debt"),
    ("I pay eight pennies.", "pay_debt"),
    ("One bowl of stew before bed.", "sell_stew"),
    ("Good night!", None),
)


class Inn:
    """The state of the game: a book in SQLite. What a function changes and that it was called are written together."""

    def __init__(self, path: str = ":memory:") -> None:
        self.book = sqlite3.connect(path)
        self.book.executescript(
            "CREATE TABLE IF NOT EXISTS calls (name TEXT, arguments TEXT, result TEXT);"
            "CREATE TABLE IF NOT EXISTS rooms (room TEXT, nights INTEGER);"
            "CREATE TABLE IF NOT EXISTS stew (bowls INTEGER);"
            "CREATE TABLE IF NOT EXISTS slate (pennies INTEGER, what TEXT);"
        )

    def rent_room(
        self, room: Literal["common", "single", "river"], nights: Annotated[int, Field(ge=1, le=30)]
    ) -> dict[str, Any]:
        """Rent the guest a bed."""
        beds, pennies = ROOMS[room]
        with self.book:
            taken = self._one("SELECT count(*) FROM rooms WHERE room = ?", room)
            if taken >= beds:
                raise ToolError(f"The {room} room is taken.")
            self.book.execute("INSERT INTO rooms VALUES (?, ?)", (room, nights))
            result = self._charge(nights * pennies, "rent_room") | {"room": room, "nights": nights}
            return self._note("rent_room", {"room": room, "nights": nights}, result)

    def sell_stew(self, bowls: Annotated[int, Field(ge=1, le=12)]) -> dict[str, Any]:
        """Serve the guest bowls of eel stew."""
        with self.book:
            self.book.execute("INSERT INTO stew VALUES (?)", (bowls,))
            result = self._charge(bowls * STEW_PENNIES, "sell_stew") | {"bowls": bowls}
            return self._note("sell_stew", {"bowls": bowls}, result)

    def pay_debt(self, pennies: Annotated[int, Field(ge=1)]) -> dict[str, Any]:
        """Take money that the guest pays of what they owe."""
        with self.book:
            if pennies > self.debt:
                raise ToolError(f"The guest owes only {self.debt} pennies.")
            self.book.execute("INSERT INTO slate VALUES (?, 'pay_debt')", (-pennies,))
            return self._note(
                "pay_debt", {"pennies": pennies}, {"ok": True, "paid": pennies, "owes_pennies": self.debt}
            )

    def read_debt(self) -> dict[str, Any]:
        """Look up how much the guest owes."""
        with self.book:
            return self._note("read_debt", {}, {"owes_pennies": self.debt})

    @property
    def debt(self) -> int:
        """What the guest owes, in pennies."""
        return self._one("SELECT coalesce(sum(pennies), 0) FROM slate")

    @property
    def tools(self) -> list[FunctionTool]:
        """What the innkeeper may call."""
        return [tool(function) for function in (self.rent_room, self.sell_stew, self.pay_debt, self.read_debt)]

    def pages(self) -> dict[str, list[tuple[Any, ...]]]:
        """The whole book."""
        tables = ("calls", "rooms", "stew", "slate")
        return {table: self.book.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in tables}

    def _charge(self, pennies: int, what: str) -> dict[str, Any]:
        if self.debt + pennies > MOST_ON_THE_SLATE:
            raise ToolError(f"That is {pennies} pennies more, and the slate is full. Pay first.")
        self.book.execute("INSERT INTO slate VALUES (?, ?)", (pennies, what))
        return {"ok": True, "price_pennies": pennies, "owes_pennies": self.debt}

    def _note(self, name: str, arguments: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        self.book.execute("INSERT INTO calls VALUES (?, ?, ?)", (name, json.dumps(arguments), json.dumps(result)))
        return result

    def _one(self, query: str, *values: str) -> int:
        return int(self.book.execute(query, values).fetchone()[0])


TOOLS = Inn().tools
INNKEEPER = Card(
    name="Hettie Marlpit",
    role="innkeeper of the Dry Boot",
    description="You rent beds, sell eel stew, and write what the guest owes on a slate.",
    personality="Warm, brisk, strict about boots.",
)

_ONES = [
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER = rf"\d+|\b(?:(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_ONES[:9])}))?|{'|'.join(_ONES)})\b"
_MONEY = re.compile(rf"({_NUMBER}|\ban?) (?:penny|pennies|coins?)\b", re.IGNORECASE)
_DEBT = re.compile(r"\b(?:owes?|owed|debts?|slate)\b", re.IGNORECASE)
_THIS_ONE = re.compile(r"\b(?:this|that|the|no|any|some|each|every|which|good|close|my|your) one\b", re.IGNORECASE)


def numbers_in(text: str) -> set[int]:
    """Numbers that a text says, in digits or words; the "one" of "this one" counts nothing."""
    return {_value(found) for found in re.findall(_NUMBER, _THIS_ONE.sub("", text), re.IGNORECASE)}


def _value(number: str) -> int:
    if number.isdigit():
        return int(number)
    tens, _, ones = number.lower().replace("-", " ").rpartition(" ")
    if ones in _TENS:
        return 20 + 10 * _TENS.index(ones)
    return (20 + 10 * _TENS.index(tens) if tens else 0) + (1 if ones in ("a", "an") else 1 + _ONES.index(ones))


def agrees(said: str, line: str, returned: Sequence[Returned]) -> bool:
    """Whether words say no other numbers than the results do.

    Money is said as a result of this turn says it, what is owed as the last one does; other numbers may be the guest's.
    """
    results = [json.loads(event.result.text) for event in returned if event.result.status == "ok"]
    money = {result[key] for result in results for key in ("price_pennies", "paid", "owes_pennies") if key in result}
    if not {_value(number) for number in _MONEY.findall(said)} <= money:
        return False
    if _DEBT.search(said) and not (results and numbers_in(said) == {results[-1]["owes_pennies"]}):
        return False
    known = numbers_in(line).union(*(numbers_in(event.result.text) for event in returned))
    return bool(said) and numbers_in(said) <= known


@dataclasses.dataclass(frozen=True)
class Turn:
    """What came of a line: what the innkeeper said, whether the game had to put it right, and her calls' results."""

    said: str
    is_corrected: bool
    returned: tuple[Returned, ...]


class Game:
    """An inn, an innkeeper and a guest."""

    def __init__(self, inn: Inn, model: Model, save: Path | None = None) -> None:
        self.inn = inn
        if save is not None and save.exists():
            self.npc = model.npc_from(save, tools=inn.tools)
        else:
            self.npc = model.npc(INNKEEPER, player="Bren", tools=inn.tools)

    def play(
        self, line: str, *, sampling: SamplingParams | None = None, on_event: Callable[[Event], None] | None = None
    ) -> Turn:
        """The guest says a line, the innkeeper acts and answers."""
        start, returned = len(self.npc.history), list[Returned]()
        asked = numbers_in(re.sub(r"\ban?\b", "one", line))

        def refuse(_call: ToolCall, values: Mapping[str, Any]) -> str | None:
            unsaid = {value for value in values.values() if isinstance(value, int)} - asked
            return f"The guest did not say {min(unsaid)}." if unsaid else None

        def hear(event: Event) -> None:
            if isinstance(event, Returned):
                returned.append(event)
            if on_event:
                on_event(event)

        options = NpcOptions(sampling=sampling or SamplingParams(temperature=0.0), max_tokens=60, refuse=refuse)
        said = self.npc.say(line, options=options, on_event=hear).text()
        if agrees(said, line, returned):
            return Turn(said, False, tuple(returned))
        said = plain_words(returned)
        self._remember(start, line, said)
        return Turn(said, True, tuple(returned))

    def _remember(self, start: int, line: str, said: str) -> None:
        """Put what was heard in the place of what the model said; what it did stays."""
        history = self.npc.session.history
        acts = [dataclasses.replace(m, content="") if m.tool_calls else m for m in history[start:] if _is_act(m)]
        history[start:] = [Message(role="user", content=line), *acts, Message(role="assistant", content=said)]


def _is_act(message: Message) -> bool:
    return bool(message.tool_calls) or message.role == "tool"


def plain_words(returned: Sequence[Returned]) -> str:
    """A line by the game, where the model's own does not agree with the book."""
    if not returned:
        return "Speak plainly, love: a bed, a bowl, or your slate?"
    result = json.loads(returned[-1].result.text)
    if reason := result.get("reason"):
        return f"No, love. {reason}"
    price = f"That makes {result['price_pennies']} pennies. " if "price_pennies" in result else ""
    return f"{price}You owe {result['owes_pennies']} pennies."


def show(event: Event) -> None:
    if isinstance(event, Returned):
        print(f"  [{event.call.name} {event.call.arguments} -> {event.result.text}]")


def main() -> None:
    book = sys.argv[1] if len(sys.argv) > 1 else ":memory:"
    save = Path(f"{book}.npc")
    inn = Inn(book)
    num_right = num_corrected = 0
    with Model.load() as model:
        game = Game(inn, model, save)
        for line, wanted in EVENING:
            print(f"Bren: {line}")
            turn = game.play(line, on_event=show)
            print(f"Hettie: {turn.said}{' (put right by the game)' if turn.is_corrected else ''}")
            num_right += [event.call.name for event in turn.returned] == ([wanted] if wanted else [])
            num_corrected += turn.is_corrected
        if book != ":memory:":
            game.npc.save(save)
    print(f"{num_right} of {len(EVENING)} turns with the right function, {num_corrected} lines put right by the game.")
    print(", ".join(f"{len(rows)} {table}" for table, rows in inn.pages().items()), "in the book.")
    print(f"Bren owes {inn.debt} pennies.")


if __name__ == "__main__":
    main()
