"""Requests that are under way, and whether new ones are taken."""

import asyncio
import time
from collections.abc import Callable

from understudy.server.problem import Problem

__all__ = ["Traffic"]

_LOOK_S = 0.05


class Traffic:
    """Counts requests in and out; only the event loop's thread calls it.

    Attributes:
        num_open: requests under way; health probes do not count.
        is_draining: the server is about to end.
    """

    def __init__(self) -> None:
        self.num_open = 0
        self.is_draining = False

    def check(self) -> None:
        """Refuse a request while the server drains.

        Raises:
            Problem: 503.
        """
        if self.is_draining:
            raise Problem(
                503,
                "The server is about to end; send it again in a moment.",
                type="server_error",
                code="server_draining",
                headers={"retry-after": "5", "connection": "close"},
            )

    async def drain(self, timeout_s: float, *, is_cut_short: Callable[[], bool]) -> None:
        """Take nothing new, and wait until all is answered.

        Args:
            timeout_s: no longer than this.
            is_cut_short: somebody is impatient.
        """
        self.is_draining = True
        deadline = time.monotonic() + timeout_s
        while self.num_open and time.monotonic() < deadline and not is_cut_short():
            await asyncio.sleep(_LOOK_S)
