"""What the characters of a server share: lore databases, a memory of players, a folder for saved sessions."""

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from understudy.npc.memory import Memory
from understudy.retrieval import Lore, open_embedder
from understudy.server.options import ServerOptions
from understudy.server.problem import Problem
from understudy.server.session_folder import SessionFolder

__all__ = ["NpcStores"]


@dataclasses.dataclass(kw_only=True, eq=False)
class NpcStores:
    """All of them are the operator's: a request names one, and never a path.

    Attributes:
        lore: databases by name.
        sessions: where characters are saved; None: nowhere.
    """

    lore: Mapping[str, Lore] = dataclasses.field(default_factory=dict)
    sessions: SessionFolder | None = None
    _memory: Memory | None = None
    _opened: ExitStack = dataclasses.field(default_factory=ExitStack)

    @classmethod
    def open(cls, options: ServerOptions, *, embedder_key: str | None = None) -> Self:
        """Open what the options name.

        Args:
            options: `lore`, `memory` and `sessions`.
            embedder_key: for endpoints that lore was built with.

        Raises:
            LoreError: a database is missing, foreign or damaged, or its embedder cannot be opened.
            ServeError: the folder cannot be made.
        """
        with ExitStack() as opened:
            lore = {}
            for name, path in options.lore.items():
                with Lore.open(path) as plain:
                    spec = plain.stats().embedder_spec
                embedder = open_embedder(spec, api_key=embedder_key)
                lore[name] = opened.enter_context(Lore.open(path, embedder=embedder))
            memory = opened.enter_context(Memory.open(options.memory)) if options.memory else None
            sessions = SessionFolder(options.sessions) if options.sessions else None
            return cls(lore=lore, sessions=sessions, _memory=memory, _opened=opened.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._opened.close()

    @property
    def memory(self) -> Memory:
        """The players' facts; without a file, they are kept until the server ends."""
        if self._memory is None:
            self._memory = self._opened.enter_context(Memory.open(None))
        return self._memory

    def find_lore(self, name: str) -> Lore:
        """A database by its name.

        Raises:
            Problem: 404, with those that there are.
        """
        if name not in self.lore:
            here = f"there are {', '.join(self.lore)}" if self.lore else "the server was started without any"
            raise Problem(404, f"There is no lore {name[:80]!r} here; {here}.", param="lore", code="unknown_lore")
        return self.lore[name]

    def saves(self) -> SessionFolder:
        """The folder.

        Raises:
            Problem: 404, there is none.
        """
        if self.sessions is None:
            raise Problem(
                404,
                'The server keeps no sessions; take the file itself ("to": "file"), or set `sessions` in its --config.',
                code="no_session_folder",
            )
        return self.sessions
