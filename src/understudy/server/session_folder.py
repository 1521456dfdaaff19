"""Saved characters in a folder: a key's own, by ids that the server draws, within bounds."""

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import ServeError
from understudy.npc.document import replacing
from understudy.server.problem import Problem

__all__ = ["SessionFolder"]

_ID = re.compile(r"session_[0-9a-f]{32}")
_MAX_SESSIONS = 1000
_MAX_BYTES = 4 << 30
_FILE, _NOTE = ".npc", ".json"


class SessionFolder:
    """Files of characters, each owner's in a folder of their own; safe from any thread."""

    def __init__(self, path: Path, *, max_sessions: int = _MAX_SESSIONS, max_bytes: int = _MAX_BYTES) -> None:
        """Use a folder, made where there is none.

        Args:
            path: the folder; nobody else should write to it.
            max_sessions: of one owner.
            max_bytes: of one owner's files together.

        Raises:
            ServeError: there is no folder, and none can be made.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ServeError(f"The folder {path} for sessions cannot be made: {error.strerror}.") from error
        self._path, self._max_sessions, self._max_bytes = path, max_sessions, max_bytes
        self._lock = threading.Lock()

    def keep(
        self,
        owner: str,
        about: Mapping[str, Any],
        write: Callable[[Path], int],
        *,
        num_bytes: int,
        session_id: str | None = None,
    ) -> dict[str, Any]:
        """Save a character.

        Args:
            owner: whose it is.
            about: what a list shall tell of it.
            write: writes the file, whole or not at all; its size.
            num_bytes: how large the file will be at most.
            session_id: of a save to replace; None for a new one.

        Returns:
            What `all_of` tells of it.

        Raises:
            Problem: 404, there is no such save; 413, it would be too much.
            SaveError: it cannot be written.
        """
        with self._lock:
            place = self.path(owner, session_id) if session_id is not None else None
            files = {path: path.stat().st_size for path in self._folder(owner).glob(f"*{_FILE}")}
            taken = sum(size for path, size in files.items() if path != place)
            if (place is None and len(files) >= self._max_sessions) or taken + num_bytes > self._max_bytes:
                raise Problem(
                    413,
                    f"{len(files)} sessions of {sum(files.values()) >> 20} MiB are saved already; delete some. There "
                    f"is room for {self._max_sessions} and {self._max_bytes >> 20} MiB.",
                    code="sessions_full",
                )
            place = place or self._folder(owner) / f"session_{secrets.token_hex(16)}{_FILE}"
            place.parent.mkdir(mode=0o700, exist_ok=True)
            size = write(place)
            with replacing(place.with_suffix(_NOTE)) as file:
                file.write(json.dumps(about).encode())
            return self._told(place, size)

    def all_of(self, owner: str) -> list[dict[str, Any]]:
        """What an owner has saved, the oldest first."""
        with self._lock:
            found = [self._told(path, path.stat().st_size) for path in self._folder(owner).glob(f"*{_FILE}")]
        return sorted(found, key=lambda one: (one["created"], one["id"]))

    def path(self, owner: str, session_id: str) -> Path:
        """The file of a save.

        Raises:
            Problem: 404, this owner has none with this id.
        """
        path = self._folder(owner) / f"{session_id}{_FILE}" if _ID.fullmatch(session_id) else None
        if path is None or not path.is_file():
            raise Problem(
                404, f"There is no saved session {session_id[:80]!r} of yours here.", code="session_not_found"
            )
        return path

    def remove(self, owner: str, session_id: str) -> None:
        """Delete a save.

        Raises:
            Problem: 404.
        """
        with self._lock:
            path = self.path(owner, session_id)
            path.unlink()
            path.with_suffix(_NOTE).unlink(missing_ok=True)

    def _folder(self, owner: str) -> Path:
        """Named by a hash: some file systems know no difference between A and a."""
        return self._path / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def _told(self, path: Path, size: int) -> dict[str, Any]:
        note = path.with_suffix(_NOTE)
        about = json.loads(note.read_bytes()) if note.is_file() else {}
        return {
            "id": path.stem,
            "object": "npc.session",
            "created": int(path.stat().st_mtime),
            "bytes": size,
            **about,
        }
