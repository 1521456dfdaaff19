"""Where the characters of all clients live, within bounds."""

import secrets
import time
from collections.abc import Callable

from fastapi import Request

from understudy.server.hosted import HostedNpc
from understudy.server.keys import ApiKey
from understudy.server.problem import Problem

__all__ = ["NpcHouse", "owner_of"]

_MAX_NPCS = 256
_MAX_BYTES = 64 << 20
_IDLE_S = 30 * 60.0


def owner_of(request: Request) -> str:
    """Who asks: the name of the key, or "" where none is asked for. One client's characters are not another's."""
    key = getattr(request.state, "api_key", None)
    return key.name if isinstance(key, ApiKey) else ""


class _Guest:
    """A character in the house."""

    def __init__(self, npc: HostedNpc, owner: str, num_bytes: int, now_s: float) -> None:
        self.npc, self.owner, self.num_bytes, self.used_s = npc, owner, num_bytes, now_s


class NpcHouse:
    """All characters that clients made, within bounds: in number, in bytes, and in time without a word."""

    def __init__(
        self,
        *,
        max_npcs: int = _MAX_NPCS,
        max_bytes: int = _MAX_BYTES,
        idle_s: float = _IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open an empty house.

        Args:
            max_npcs: most characters at a time.
            max_bytes: of their cards and of what was said, together.
            idle_s: who hears nothing for so long is forgotten.
            clock: seconds, growing.
        """
        self.max_npcs, self.max_bytes, self.idle_s = max_npcs, max_bytes, idle_s
        self._clock = clock
        self._guests: dict[str, _Guest] = {}

    def add(self, npc: HostedNpc, owner: str) -> str:
        """Take a character in; its id, which nobody can guess.

        Raises:
            Problem: 429, the house is full.
        """
        self._forget_idle()
        num_bytes = npc.num_bytes
        taken = num_bytes + sum(guest.num_bytes + guest.npc.num_chars for guest in self._guests.values())
        if len(self._guests) >= self.max_npcs or taken > self.max_bytes:
            raise Problem(
                429,
                f"There are {len(self._guests)} characters already; save and delete one, or wait: who hears nothing "
                f"for {self.idle_s / 60:.0f} minutes is forgotten.",
                type="rate_limit_error",
                code="too_many_npcs",
                headers={"retry-after": "60"},
            )
        npc_id = f"npc_{secrets.token_urlsafe(24)}"
        self._guests[npc_id] = _Guest(npc, owner, num_bytes, self._clock())
        return npc_id

    def get(self, npc_id: str, owner: str) -> HostedNpc:
        """A character of this owner.

        Raises:
            Problem: 404.
        """
        self._forget_idle()
        guest = self._guests.get(npc_id)
        if guest is None or guest.owner != owner:
            raise Problem(
                404,
                f"There is no character {npc_id[:80]!r} here; it may have been idle too long. Create it, or load it.",
                code="npc_not_found",
            )
        guest.used_s = self._clock()
        return guest.npc

    def remove(self, npc_id: str, owner: str) -> None:
        """Let a character go; a line that it is answering ends.

        Raises:
            Problem: 404.
        """
        self.get(npc_id, owner).stop()
        del self._guests[npc_id]

    def all_of(self, owner: str) -> dict[str, HostedNpc]:
        """An owner's characters by id, oldest first."""
        self._forget_idle()
        return {npc_id: guest.npc for npc_id, guest in self._guests.items() if guest.owner == owner}

    def _forget_idle(self) -> None:
        now = self._clock()
        for npc_id in [i for i, guest in self._guests.items() if now - guest.used_s > self.idle_s]:
            self._guests.pop(npc_id).npc.stop()
