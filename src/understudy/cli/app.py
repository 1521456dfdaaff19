"""The `understudy` command and how its errors are shown."""

import sys
from typing import Annotated, Any

import typer

from understudy import __version__
from understudy.cli.average import average
from understudy.cli.bench import bench
from understudy.cli.card import card
from understudy.cli.chat import chat
from understudy.cli.data import data
from understudy.cli.distill import distill
from understudy.cli.doctor import doctor
from understudy.cli.evaluate import evaluate
from understudy.cli.finetune import finetune
from understudy.cli.key import key
from understudy.cli.lore import lore
from understudy.cli.make import make
from understudy.cli.memory import memory
from understudy.cli.pairs import pairs
from understudy.cli.plan import plan
from understudy.cli.prune import prune
from understudy.cli.pull import models, pull
from understudy.cli.quantize import quantize
from understudy.cli.serve import serve
from understudy.cli.synth import synth
from understudy.cli.train import train
from understudy.errors import UnderstudyError

__all__ = ["app", "main"]

# Typer brings its own copy of click since 0.16 or so; this is the error class of whichever it uses.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="understudy",
    help="Game characters on a small language model: talk, serve, train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(serve)
app.add_typer(key, name="key")
app.command()(doctor)
app.command()(plan)
app.command()(pull)
app.command()(models)
app.command()(synth)
app.command()(bench)
app.command()(make)
app.add_typer(lore, name="lore")
app.add_typer(memory, name="memory")
app.add_typer(card, name="card")
app.command()(data)
app.command()(train)
app.command()(distill)
app.command()(pairs)
app.command()(finetune)
app.command()(evaluate)
app.command()(prune)
app.command()(average)
app.command()(quantize)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    """Game characters on a small language model: talk, serve, train."""
    if version:
        typer.echo(f"understudy {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with one sentence and exit code 2."""
    try:
        sys.exit(app(args=arguments, prog_name="understudy", standalone_mode=False) or 0)
    except UnderstudyError as error:
        _complain(str(error))
        sys.exit(2)
    except _UsageError as error:
        _explain_usage(error)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()


def _explain_usage(error: Any) -> None:
    """One sentence on what was typed wrong, and where to read on."""
    command = error.ctx.command_path if error.ctx else "understudy"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.ctx.get_help(), err=True)
    else:
        _complain(f"{error.format_message().rstrip('.')}; {command} --help lists what there is")


def _complain(message: str) -> None:
    text = " ".join(message.split())
    typer.echo(f"understudy: {text if text.endswith(('.', '?')) else text + '.'}", err=True)
