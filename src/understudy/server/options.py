"""How the server is run, and the file that says so."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from understudy.errors import ServeError
from understudy.server.toml_file import read_toml

__all__ = ["ServerOptions"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Everything that an operator may set; a TOML file has the same words.

    Attributes:
        models: files or folders by the name that clients use; the first is the default. Empty for the embedded model.
        backend: what computes, see `understudy serve --backend`.
        gpu_memory: cap of what wgpu takes of the GPU, e.g. "2GiB".
        gpu_frame_ms: milliseconds of the GPU that wgpu takes in a frame of 1/60 s; None for all.
        engine_process: whether each model computes in a process of its own, see `Model.load`; None: small ones do.
        host: address to listen on.
        port: TCP port; 0 for any free one.
        keys: file of hashed API keys, see `understudy key new`.
        log: lines for people or (json) for programs.
        max_waiting: requests that wait for a place with the model; further ones get a 429.
        max_request_s: an answer ends after so many seconds, with what it has.
        stream_interval_ms: pieces of a streamed answer that come within so many milliseconds of the last event, the
            first apart, are one event; 0 sends each alone.
        drain_s: how long SIGTERM lets running answers go on.
        cors_origins: web pages elsewhere that may ask, e.g. "https://game.example"; "*" for all.
        tls_certificate: file of the certificate's chain (PEM); with it the server speaks HTTPS.
        tls_key: file of its private key (PEM).
        lore: lore databases by the name that clients use for their characters.
        memory: file in which characters keep what they learn of players; None: gone with the server.
        sessions: folder in which characters are saved; None: nowhere.

    Raises:
        ServeError: a value is out of range.
    """

    models: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    backend: str = "auto"
    gpu_memory: str | None = None
    gpu_frame_ms: float | None = None
    engine_process: bool | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    log: Literal["text", "json"] = "text"
    max_waiting: int = 64
    max_request_s: float = 600
    stream_interval_ms: float = 25
    drain_s: float = 30
    cors_origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    lore: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    memory: Path | None = None
    sessions: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ServeError(f"port must be from 0 to 65535, got {self.port}.")
        if self.log not in ("text", "json"):
            raise ServeError(f'log must be "text" or "json", got {self.log!r}.')
        if self.max_waiting < 1:
            raise ServeError(f"max_waiting must be a whole number from 1, got {self.max_waiting}.")
        if not (0 < self.max_request_s < math.inf and 0 <= self.drain_s < math.inf):
            raise ServeError(
                f"max_request_s must be above 0 s and drain_s from 0 s, got {self.max_request_s} and {self.drain_s}."
            )
        if not 0 <= self.stream_interval_ms <= 1000:
            raise ServeError(f"stream_interval_ms must be from 0 to 1000, got {self.stream_interval_ms}.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ServeError("tls_certificate and tls_key belong together; set both, or neither.")
        for file in (self.tls_certificate, self.tls_key):
            if file is not None and not file.is_file():
                raise ServeError(f"There is no file {file}; tls_certificate and tls_key must name PEM files.")
        for origin in self.cors_origins:
            scheme, _, rest = origin.partition("://")
            if origin != "*" and (scheme not in ("http", "https") or not rest or "/" in rest):
                raise ServeError(f'An origin is like "https://game.example", without a path; got {origin!r}.')

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file; relative paths begin at its folder.

        Raises:
            ServeError: it is missing or damaged, or has an unknown word or a wrong value.
        """
        document = read_toml(path, mend="--config must name a TOML file")
        kinds = typing.get_type_hints(cls)
        if unknown := sorted(document.keys() - kinds.keys()):
            raise ServeError(f"{path} has the unknown word {unknown[0]!r}; there are {', '.join(kinds)}.")
        return cls(**{name: _value(name, value, kinds[name], path) for name, value in document.items()})


def _value(name: str, value: Any, kind: Any, path: Path) -> Any:
    """A TOML value as the option's type."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if name in ("models", "lore") and isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
        return {key: path.parent / file for key, file in value.items()}
    if name == "cors_origins" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if Path in options and isinstance(value, str):
        return path.parent / value
    if float in options and type(value) in (int, float):
        return float(value)
    if bool in options and isinstance(value, bool):
        return value
    is_text = str in options or typing.get_origin(kind) is Literal
    if (int in options and type(value) is int) or (is_text and isinstance(value, str)):
        return value
    raise ServeError(f"{name} of {path} has a value of the wrong kind: {value!r}.")
