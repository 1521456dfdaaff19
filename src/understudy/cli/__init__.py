"""The command line: one module a verb; the only place that prints, and reads arguments and environment."""

from understudy.cli.app import main

__all__ = ["main"]
