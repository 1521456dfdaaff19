"""`understudy chat`: talk with a character."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import ContextLengthError, RequestError, UnderstudyError

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.engine import SamplingParams
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
) -> None:
    """Talk with a character."""
    from understudy.npc.card import find_card
    from understudy.npc.model import Model
    from understudy.npc.session import Session
    from understudy.npc.world import default_world, load_world

    place = load_world(world) if world else default_world()
    who = find_card(card, place) if card else place.characters[0]
    with Model.load(model) as loaded:
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

    def answer(self, line: str) -> Iterator[str]:
        """The answer as it comes."""
        from understudy.prompt import AnswerParser

        limit = self.model.files.config.max_position_embeddings
        talk = self.session.conversation(
            line, max_prompt_tokens=max(1, limit - self._max_tokens), count=self.model.count
        )
        generation = self.model.generate(talk, sampling=self._sampling, max_tokens=self._max_tokens)
        self.num_prompt_tokens = generation.usage.prompt_tokens
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

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[dim]{talk.session.card.scenario}\n/help lists the commands.[/dim]", markup=True)
    _speak(console, talk.name, talk.session.card.greeting(talk.session.player))
    while True:
        try:
            line = console.input(f"[bold cyan]{talk.session.player}[/bold cyan]: ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("[dim](/quit leaves)[/dim]")
            continue
        if not line:
            continue
        try:
            if line.startswith("/"):
                if not _command(console, talk, line):
                    return
            else:
                _stream(console, talk, line)
        except UnderstudyError as error:
            console.print(f"[red]{error}[/red]", markup=True)
            if isinstance(error, ContextLengthError):
                console.print("[dim]Say it shorter, or /reset.[/dim]")


def _stream(console: "Console", talk: _Talk, line: str) -> None:
    console.print(f"[bold green]{talk.name}[/bold green]: ", end="")
    try:
        for piece in talk.answer(line):
            console.out(piece, end="", highlight=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        console.print("[dim] (stopped)[/dim]", end="")
    console.print()


def _speak(console: "Console", name: str, text: str) -> None:
    console.print(f"[bold green]{name}[/bold green]: ", end="")
    console.out(text, highlight=False)


def _command(console: "Console", talk: _Talk, line: str) -> bool:
    """Run a slash command; False to leave."""
    from understudy.npc.session import Session

    verb, _, rest = line.partition(" ")
    if verb in ("/quit", "/exit"):
        return False
    if verb == "/help":
        console.out(_HELP, highlight=False)
    elif verb == "/reset":
        talk.session.reset()
        console.print("[dim]Forgotten.[/dim]")
    elif verb in ("/save", "/load") and not rest.strip():
        console.print(f"[red]{verb} needs a file name, e.g. {verb} evening.json[/red]")
    elif verb == "/save":
        talk.session.save(Path(rest.strip()))
        console.print("[dim]Saved.[/dim]")
    elif verb == "/load":
        talk.session = Session.load(Path(rest.strip()), world=talk.session.world)
        console.print(f"[dim]Going on with {talk.name}, {len(talk.session.history)} turns.[/dim]")
    elif verb == "/why":
        for found in talk.session.last_lore:
            console.out(f"{found.entry.title} (matched: {', '.join(found.matched_keys)})", highlight=False)
        console.print(f"[dim]{len(talk.session.last_lore)} passages, prompt of {talk.num_prompt_tokens} tokens[/dim]")
    else:
        console.print(f"[red]There is no command {verb}; /help lists them.[/red]")
    return True
