"""`understudy chat`: talk with a character."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.errors import ContextLengthError, RequestError, UnderstudyError

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.engine import SamplingParams
    from understudy.npc.model import Model
    from understudy.npc.npc import Npc
    from understudy.tools.functions import FunctionTool
    from understudy.tools.loop import Event

__all__ = ["chat"]

_MAX_SHOWN = 300
_HELP = """/help         these lines
/reset        forget the conversation
/save FILE    write the conversation to a file
/load FILE    go on with a saved one
/why          what the model was shown for the last answer, what was left out, and why
/quit         leave (so does Ctrl-D); Ctrl-C stops an answer"""


def chat(
    card: Annotated[
        str,
        typer.Option("--card", "--character", help="A name or id of the world, or a card file (JSON, PNG, .charx)."),
    ] = "",
    model: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder; default: Harrow.")] = None,
    world: Annotated[
        list[Path] | None,
        typer.Option(help="World folder (default: the sample game Harrowmere), lorebook or lore database; repeatable."),
    ] = None,
    player: Annotated[str, typer.Option(help="The name you go by.")] = "traveller",
    say: Annotated[str | None, typer.Option(help="Say this, print the one answer and leave.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest word; 2: wild.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 120,
    backend: Annotated[str, typer.Option(help="What computes: auto, cpu, reference or wgpu[:adapter].")] = "auto",
    tools: Annotated[list[str] | None, typer.Option(help="FILE.json, FILE.py:NAME or MODULE:NAME; repeatable.")] = None,
) -> None:
    """Talk with a character."""
    for stream in (sys.stdin, sys.stdout):  # a foreign character shows as "?", it does not end the conversation
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from understudy.npc.model import Model
    from understudy.npc.npc import NpcOptions

    functions = _load_tools(tools or [])
    with contextlib.ExitStack() as opened:
        surroundings = _surroundings(world or [], opened)
        place = surroundings["world"]
        loaded = opened.enter_context(Model.load(model, backend=backend))
        options = NpcOptions(sampling=_sampling(loaded, temperature), max_tokens=max_tokens)
        about = {**surroundings, "tools": functions, "options": options}
        npc = loaded.npc(card or place.characters[0], player=player, seed=seed, **about)
        if say is not None:
            if not say.strip():
                raise RequestError("--say is empty; give the line that the character shall answer.", param="say")
            print(npc.say(say, on_event=_Page(_plain_console()).show).text())
            return
        _converse(_Talk(npc, lambda path: loaded.npc_from(path, **about)))


def _surroundings(paths: list[Path], opened: contextlib.ExitStack) -> dict[str, Any]:
    """What the paths hold, as arguments of `Model.npc`; facts about the player go into the lore database.

    Args:
        paths: one world and one database at most, and lorebooks.
        opened: closes the database.
    """
    from understudy.npc.lorebook import Lorebook
    from understudy.npc.memory import Memory
    from understudy.npc.world import default_world, load_world
    from understudy.retrieval import Lore

    place, lore, memory, books = None, None, None, []
    for path in paths:
        if path.suffix.lower() == ".json":
            books.append(Lorebook.load(path))
        elif path.is_file() and lore is None:
            lore, memory = opened.enter_context(Lore.open(path)), opened.enter_context(Memory.open(path))
        elif not path.is_file() and place is None:
            place = load_world(path)
        else:
            kind = "lore database" if path.is_file() else "world folder"
            raise RequestError(f"{path} is a second {kind}; give one, and any number of lorebooks.", param="world")
    return {"world": place or default_world(), "lore": lore, "lorebooks": books, "memory": memory}


def _load_tools(specs: list[str]) -> "list[FunctionTool]":
    if not specs:
        return []
    from understudy.tools.functions import load_tools

    sys.path.insert(0, str(Path.cwd()))  # MODULE:NAME beside the game
    return [tool for spec in specs for tool in load_tools(spec)]


def _sampling(model: "Model", temperature: float | None) -> "SamplingParams":
    usual = model.character_sampling
    return usual if temperature is None else dataclasses.replace(usual, temperature=temperature)


@dataclasses.dataclass
class _Talk:
    """Who is spoken with, and how to go on with a saved one."""

    npc: "Npc"
    load: "Callable[[Path], Npc]"


class _Page:
    """An answer on the screen; calls and results within it have lines of their own."""

    def __init__(self, console: "Console", *, is_midline: bool = False) -> None:
        self._console = console
        self._is_midline = is_midline

    def write(self, text: str) -> None:
        text = text if self._is_midline else text.lstrip("\n")
        if text:
            self._console.out(text, end="", highlight=False)
            self._is_midline = True

    def show(self, event: "Event") -> None:
        from understudy.tools.loop import Called, Finished, Returned

        if isinstance(event, Called):
            self._note(f"{event.call.name} {event.call.arguments}")
        elif isinstance(event, Returned):
            is_ok = event.result.status == "ok"
            text = _one_line(event.result.text)
            self._note(f"-> {text}" if is_ok else f"-> {event.result.status}: {text}", style="dim" if is_ok else "red")
        elif isinstance(event, Finished) and event.calls:
            self._note(f"not run: {', '.join(call.name for call in event.calls)}")

    def _note(self, text: str, style: str = "dim") -> None:
        if self._is_midline:
            self._console.print()
        self._console.print(f"  {text}", style=style)
        self._is_midline = False


def _one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _MAX_SHOWN else f"{words[:_MAX_SHOWN]} ..."


def _plain_console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def _converse(talk: _Talk) -> None:
    console = _plain_console()
    _note(console, " ".join(talk.npc.card.scenario.split()))
    _note(console, "/help lists the commands.")
    if greeting := talk.npc.greeting:
        _name(console, talk)
        console.out(greeting, highlight=False)
    while True:
        try:
            console.print(f"{talk.npc.session.player}: ", style="bold cyan", end="")
            line = console.input().strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            _note(console, "(/quit leaves)")
            continue
        if not line:
            continue
        try:
            if not line.startswith("/"):
                _stream(console, talk, line)
            elif not _command(console, talk, line):
                return
        except UnderstudyError as error:
            _complain(console, str(error))
            if isinstance(error, ContextLengthError):
                _complain(console, "Say it shorter, or /reset.")


def _stream(console: "Console", talk: _Talk, line: str) -> None:
    page = _Page(console, is_midline=True)
    answer = talk.npc.say(line, on_event=page.show)
    try:
        _name(console, talk)
        for piece in answer:
            page.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        console.print(" (stopped)", style="dim", end="")
    finally:
        answer.close()
        console.print()


def _name(console: "Console", talk: _Talk) -> None:
    console.print(f"{talk.npc.card.name}: ", style="bold green", end="")


def _note(console: "Console", text: str) -> None:
    if text:
        console.print(text, style="dim")


def _complain(console: "Console", text: str) -> None:
    console.print(text, style="red")


def _command(console: "Console", talk: _Talk, line: str) -> bool:
    """Run a slash command; False to leave."""
    verb, _, rest = line.partition(" ")
    path = Path(os.path.expanduser(rest.strip()))  # noqa: PTH111 (its Path twin fails where there is no home)
    if verb in ("/quit", "/exit"):
        return False
    if verb == "/help":
        console.out(_HELP, highlight=False)
    elif verb == "/reset":
        talk.npc.session.reset()
        _note(console, "Forgotten.")
    elif verb in ("/save", "/load") and not rest.strip():
        _complain(console, f"{verb} needs a file name, e.g. {verb} evening.npc")
    elif verb == "/save":
        size = talk.npc.save(path, with_kv=True)
        _note(console, f"Saved to {path}, {size / 1e6:.1f} MB.")
    elif verb == "/load":
        talk.npc = talk.load(path)
        _note(console, f"Going on with {talk.npc.card.name}, {len(talk.npc.history)} lines so far.")
    elif verb == "/why":
        why = talk.npc.why()
        console.out(why.explain() if why else "Nothing was said yet.", highlight=False)
    else:
        _complain(console, f"There is no command {verb}; /help lists them.")
    return True
