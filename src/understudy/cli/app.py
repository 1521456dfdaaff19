"""The `understudy` command and how its errors are shown."""

import sys
from typing import Annotated

import typer

from understudy import __version__
from understudy.cli.chat import chat
from understudy.cli.doctor import doctor
from understudy.cli.serve import serve
from understudy.cli.train import train
from understudy.errors import UnderstudyError

__all__ = ["app", "main"]

app = typer.Typer(
    name="understudy",
    help="Game characters on a small language model: talk, serve, train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(serve)
app.command()(doctor)
app.command()(train)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    """Game characters on a small language model: talk, serve, train."""
    if version:
        typer.echo(f"understudy {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake ends with one sentence and exit code 2."""
    try:
        app(args=arguments, prog_name="understudy")
    except UnderstudyError as error:
        _complain(str(error))
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()


def _complain(message: str) -> None:
    text = " ".join(message.split())
    typer.echo(f"understudy: {text if text.endswith(('.', '?')) else text + '.'}", err=True)
