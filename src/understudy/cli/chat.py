"""`understudy chat`: talk with a character."""

import dataclasses
import io
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import ContextLengthError, RequestError, UnderstudyError

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.engine import Generation, SamplingParams
    from understudy.npc.model import Model
    from understudy.npc.session import Session

__all__ = ["chat"]

_HELP = """/help         these lines
/reset        forget the conversation
/save FILE    write the conversation to a file
/load FILE    go on with a saved one
/why          which lore the last answer was given, and how long the prompt was
/quit         leave (so does Ctrl-D); Ctrl-C stops an answer"""


def chat(
    card: Annotated[str, typer.Option(help="Character: a name or id of the world, or a card's JSON file.")] = "",
    model: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder; default: Harrow.")] = None,
    world: Annotated[Path | None, typer.Option(help="World folder; default: the sample game Harrowmere.")] = None,
    player: Annotated[str, typer.Option(help="The name you go by.")] = "traveller",
    say: Annotated[str | None, typer.Option(help="Say this, print the one answer and leave.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the likeliest word; 2: wild.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 120,
    backend: Annotated[str, typer.Option(help="What computes: auto, cpu (compiled) or reference (NumPy).")] = "auto",
) -> None:
    """Talk with a character."""
    for stream in (sys.stdin, sys.stdout):  # a foreign character shows as "?", it does not end the conversation
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    from understudy.npc.card import find_card
    from understudy.npc.model import Model
    from understudy.npc.session import Session
    from understudy.npc.world import default_world, load_world

    place = load_world(world) if world else default_world()
    who = find_card(card, place) if card else place.characters[0]
    with Model.load(model, backend=backend) as loaded:
        sampling = _sampling(loaded, seed, temperature)
        talk = _Talk(loaded, Session(who, world=place, player=player), sampling, max_tokens)
        if say is not None:
            if not say.strip():
                raise RequestError("--say is empty; give the line that the character shall answer.", param="say")
            print(talk.answer_whole(say))
            return
        _converse(talk)


def _sampling(model: "Model", seed: int | None, temperature: float | None) -> "SamplingParams":
    given = {"seed": seed, "temperature": temperature}
    return dataclasses.replace(model.default_sampling, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


class _Talk:
    """A session on a model: one line in, an answer out."""

    def __init__(self, model: "Model", session: "Session", sampling: "SamplingParams", max_tokens: int) -> None:
        self.model, self.session = model, session
        self._sampling, self._max_tokens = sampling, max_tokens
        self.num_prompt_tokens = 0

    @property
    def name(self) -> str:
        return self.session.card.name

    def answer_whole(self, line: str) -> str:
        """The answer, once it is complete; committed to the session."""
        return "".join(self.answer(line))

    def answer(self, line: str) -> Generator[str]:
        """The answer as it comes; what is wrong with the line is raised at once."""
        limit = self.model.files.config.max_position_embeddings
        room = max(limit - self._max_tokens, limit // 2)  # the engine clamps an answer that may become too long
        talk = self.session.conversation(line, max_prompt_tokens=room, count=self.model.count)
        generation = self.model.generate(talk, sampling=self._sampling, max_tokens=self._max_tokens)
        self.num_prompt_tokens = generation.usage.prompt_tokens
        return self._spoken(line, generation)

    def _spoken(self, line: str, generation: "Generation") -> Generator[str]:
        from understudy.prompt import AnswerParser

        parser = AnswerParser()
        said: list[str] = []
        try:
            for chunk in generation:
                said.append(parser.push(chunk.text))
                yield said[-1]
            said.append(parser.finish())
            yield said[-1]
        finally:
            generation.cancel()
            text = "".join(said).strip()
            if text:
                self.session.commit(line, text)


def _converse(talk: _Talk) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    _note(console, " ".join(talk.session.card.scenario.split()))
    _note(console, "/help lists the commands.")
    if greeting := talk.session.card.greeting(talk.session.player):
        _name(console, talk)
        console.out(greeting, highlight=False)
    while True:
        try:
            console.print(f"{talk.session.player}: ", style="bold cyan", end="")
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
    pieces = talk.answer(line)
    try:
        _name(console, talk)
        for piece in pieces:
            console.out(piece, end="", highlight=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        console.print(" (stopped)", style="dim", end="")
    finally:
        pieces.close()
        console.print()


def _name(console: "Console", talk: _Talk) -> None:
    console.print(f"{talk.name}: ", style="bold green", end="")


def _note(console: "Console", text: str) -> None:
    if text:
        console.print(text, style="dim")


def _complain(console: "Console", text: str) -> None:
    console.print(text, style="red")


def _command(console: "Console", talk: _Talk, line: str) -> bool:
    """Run a slash command; False to leave."""
    from understudy.npc.session import Session

    verb, _, rest = line.partition(" ")
    path = Path(os.path.expanduser(rest.strip()))  # noqa: PTH111 (its Path twin fails where there is no home)
    if verb in ("/quit", "/exit"):
        return False
    if verb == "/help":
        console.out(_HELP, highlight=False)
    elif verb == "/reset":
        talk.session.reset()
        _note(console, "Forgotten.")
    elif verb in ("/save", "/load") and not rest.strip():
        _complain(console, f"{verb} needs a file name, e.g. {verb} evening.npc.json")
    elif verb == "/save":
        talk.session.save(path)
        _note(console, f"Saved to {path}.")
    elif verb == "/load":
        talk.session = Session.load(path, world=talk.session.world)
        _note(console, f"Going on with {talk.name}, {len(talk.session.history)} lines so far.")
    elif verb == "/why":
        for found in talk.session.last_lore:
            console.out(f"{found.entry.title} (matched: {', '.join(found.matched_keys)})", highlight=False)
        _note(console, f"{len(talk.session.last_lore)} passages, prompt of {talk.num_prompt_tokens} tokens")
    else:
        _complain(console, f"There is no command {verb}; /help lists them.")
    return True
