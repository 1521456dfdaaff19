"""Where the server listens, and until when."""

import asyncio
import errno
import ipaddress
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from understudy.errors import ServeError

__all__ = ["open_socket", "run_server"]

_KEEP_ALIVE_S = 60
_SHUTDOWN_S = 2
_BACKLOG = 128


def run_server(app: FastAPI, host: str, port: int, *, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end; the model's engine is closed then.

    Args:
        app: made by `create_app`.
        host: address or name to listen on.
        port: 1 to 65535; 0 takes a free one.
        ready: called once, with the address, when requests are answered.

    Raises:
        ServeError: the address cannot be used, or lies open to others without a key.
    """
    listener = open_socket(host, port, has_key=app.state.api_key is not None)
    with listener:
        config = uvicorn.Config(
            app,
            http="h11",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        server = _Server(config, ready=lambda: ready(url), stop=app.state.model.engine.close)
        server.run(sockets=[listener])


def open_socket(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Bind, so that a mistake shows before anything starts.

    Raises:
        ServeError: no such address, the port is taken, or others could reach it without a key.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ServeError(f"There is no address {host!r}; use 127.0.0.1, or an address of this machine.") from error
    if not (has_key or ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback):
        raise ServeError(
            f"Other machines can reach {host}, so a key is needed: set UNDERSTUDY_API_KEY, or listen on 127.0.0.1."
        )
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServeError(_reason(error, host, port)) from error
    return listener


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use; choose another with --port, or end what listens there."
    if error.errno == errno.EACCES:
        return f"Port {port} needs rights that this user lacks; choose one from 1024 up with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; use 127.0.0.1, or one of its own."
    return f"Cannot listen on {host}, port {port}: {error.strerror}; choose others with --host and --port."


class _Server(uvicorn.Server):
    """Tells when it answers, and leaves no answer hanging."""

    def __init__(self, config: uvicorn.Config, *, ready: Callable[[], None], stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready, self._stop = ready, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the answers that are under way, then the connections."""
        await asyncio.to_thread(self._stop)
        await super().shutdown(sockets)
