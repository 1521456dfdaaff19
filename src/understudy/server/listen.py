"""Where the server listens, and until when."""

import asyncio
import errno
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from understudy.errors import ServeError, UnderstudyError
from understudy.server.keys import KeyRing
from understudy.server.options import ServerOptions
from understudy.server.problem import Problem
from understudy.server.reload import Reloads
from understudy.server.served import Shelf
from understudy.server.traffic import Traffic
from understudy.server.wire import Wire

__all__ = ["open_socket", "run_server", "server_config"]

_KEEP_ALIVE_S = 60
_SHUTDOWN_S = 2
_GC_THRESHOLD = 20_000
_BACKLOG = 128
_log = logging.getLogger(__name__)


def run_server(app: FastAPI, host: str, port: int, *, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to end: load the models with the port open already, close them at the end.

    Args:
        app: made by `create_app`.
        host: address or name to listen on.
        port: 1 to 65535; 0 takes a free one.
        ready: called once, with the address, when the models answer.

    Raises:
        ServeError: the address or the certificate cannot be used, or it lies open to others without a key.
        ModelFileError: a model's file is damaged or foreign.
        EngineError: the backend does not exist or cannot run a model.
    """
    options: ServerOptions = app.state.options
    listener = open_socket(host, port, has_key=len(app.state.keys) > 0)
    with listener:
        config = server_config(app)
        try:
            config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ServeError(
                f"The certificate {options.tls_certificate} and key {options.tls_key} cannot be used: {error}."
            ) from error
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if options.tls_key else 'http'}://{shown}:{listener.getsockname()[1]}"
        gc.set_threshold(_GC_THRESHOLD)  # a request's objects come and go, nearly all without cycles
        server = _Server(config, app, ready=lambda: ready(url))
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure


def server_config(app: FastAPI, *, wire: type[Wire] = Wire) -> uvicorn.Config:
    """How uvicorn serves an application.

    Args:
        app: made by `create_app`.
        wire: its connections.
    """
    options: ServerOptions = app.state.options
    return uvicorn.Config(
        app,
        http=wire,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who asks is told by keys, never by what a header says
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_certfile=options.tls_certificate,
        ssl_keyfile=options.tls_key,
    )


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


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return False
    return True


class _Server(uvicorn.Server):
    """Opens the port before the models are loaded, and ends without cutting what is being said.

    Attributes:
        failure: why the models could not be loaded.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._shelf: Shelf = app.state.shelf
        self._traffic: Traffic = app.state.traffic
        self._drain_s: float = app.state.options.drain_s
        self._ready = ready
        self._is_drained = False
        self._had_terminal = _has_terminal()
        self._reloads: Reloads = app.state.reloads
        self._keys: KeyRing = app.state.keys
        self._reloading: set[asyncio.Task[None]] = set()
        self.failure: UnderstudyError | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM lets running answers end; a second signal, or Ctrl+C, does not."""
        self._is_drained = sig == signal.SIGTERM and not self.should_exit
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then load in a thread that does not hold the process's end up."""
        await super().startup(sockets)
        self._hear_hangup()
        threading.Thread(target=self._load, name="understudy-load", daemon=True).start()

    def _hear_hangup(self) -> None:
        """SIGHUP has the keys and all models read anew; one that is ignored, as under nohup, stays so."""
        is_main = threading.current_thread() is threading.main_thread()
        if hasattr(signal, "SIGHUP") and is_main and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self._had_terminal and not _has_terminal():  # it was closed: that means the end, as ever
            self.handle_exit(signal.SIGTERM, None)
            return
        task = asyncio.create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        try:
            if self._keys.renew():
                _log.info("The keys are read anew: %d.", len(self._keys))
        except ServeError as error:
            _log.error("The keys are not read anew, the old ones go on: %s", error)
        try:
            await self._reloads.reload()
        except Problem as problem:  # still loading
            _log.warning("SIGHUP is not heeded: %s", problem)

    def _load(self) -> None:
        try:
            self._shelf.load()
        except UnderstudyError as error:
            self.failure, self.should_exit = error, True
        else:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the answers that are under way, then the connections."""
        if self._is_drained:
            await self._traffic.drain(self._drain_s, is_cut_short=lambda: not self._is_drained)
        await asyncio.to_thread(self._shelf.close)
        await super().shutdown(sockets)
