"""API keys: shown once, kept as salted hashes, each with limits of its own."""

import dataclasses
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from understudy.errors import ServeError
from understudy.server.toml_file import read_toml

__all__ = ["ApiKey", "KeyRing", "write_new_key"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SALT_BYTES = 16
_MAX_KEYS = 1000
_MAX_KEY_BYTES = 1024  # hashing what is longer, once a key, would be work for strangers
_HEAD = "# Hashes of API keys, by understudy key new. To withdraw a key, delete its table and send the server SIGHUP.\n"
_LIMITS = ("requests_per_minute", "max_concurrent")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiKey:
    """What is kept of a key: enough to know it again, too little to use it.

    One round of SHA-256 is enough for keys that `write_new_key` draws: nobody guesses 256 random bits.

    Attributes:
        name: for logs.
        salt: drawn for this key.
        hash: SHA-256 of the salt and the key.
        requests_per_minute: on average, a minute's worth at once; None for no limit.
        max_concurrent: answers under way at a time; None for no limit.
        may_reload: it may have models read anew.

    Raises:
        ServeError: a value is out of range.
    """

    name: str
    salt: bytes
    hash: bytes
    requests_per_minute: int | None = None
    max_concurrent: int | None = None
    may_reload: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ServeError(f"A key's name must be 1 to 64 letters, digits, '-' or '_', got {self.name!r}.")
        if len(self.hash) != hashlib.sha256().digest_size or len(self.salt) < _SALT_BYTES:
            raise ServeError(f"The key {self.name!r} has a damaged hash or salt; make it anew: understudy key new.")
        for field in _LIMITS:
            value = getattr(self, field)
            if value is not None and (type(value) is not int or value < 1):
                raise ServeError(f"{field} of the key {self.name!r} must be a whole number from 1, got {value!r}.")
        if type(self.may_reload) is not bool:
            raise ServeError(f"may_reload of the key {self.name!r} must be true or false, got {self.may_reload!r}.")

    @classmethod
    def of(cls, key: str, *, name: str, may_reload: bool = False, **limits: int | None) -> Self:
        """What is kept of a key.

        Raises:
            ServeError: no client could send it.
        """
        if not (key and key.isprintable() and key == key.strip() and len(key.encode()) <= _MAX_KEY_BYTES):
            raise ServeError(
                f"The API key must be up to {_MAX_KEY_BYTES} printable characters without spaces at its ends; "
                "set another key."
            )
        salt = secrets.token_bytes(_SALT_BYTES)
        digest = hashlib.sha256(salt + key.encode()).digest()
        return cls(name=name, salt=salt, hash=digest, may_reload=may_reload, **limits)

    def matches(self, given: bytes) -> bool:
        """Whether this is the key; how long it takes tells nothing of it."""
        return hmac.compare_digest(hashlib.sha256(self.salt + given).digest(), self.hash)


class KeyRing:
    """All keys that open the server.

    Attributes:
        keys: those that are good now.
        path: the file that some of them came from, to be read anew by `renew`.
    """

    def __init__(self, keys: Sequence[ApiKey] = (), *, own: Sequence[ApiKey] = (), path: Path | None = None) -> None:
        """Hold keys.

        Args:
            keys: those of the file.
            own: those that stay whatever becomes of the file.
            path: the file.

        Raises:
            ServeError: two have one name.
        """
        self.path, self._own = path, tuple(own)
        self.keys = self._together(keys)

    def _together(self, keys: Sequence[ApiKey]) -> tuple[ApiKey, ...]:
        keys = (*self._own, *keys)
        names = [key.name for key in keys]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ServeError(f"Two keys have the name {doubled!r}; rename one.")
        return keys

    def renew(self) -> bool:
        """Read the file again: new keys are good from now on, keys that are gone no longer. Without a file, nothing.

        Returns:
            Whether there is a file.

        Raises:
            ServeError: it is missing or damaged, or no key is left, so that anybody could enter; the old ones stay.
        """
        if self.path is None:
            return False
        keys = self._together(KeyRing.read(self.path).keys)
        if not keys:
            raise ServeError(f"{self.path} holds no key any more; end the server to close it.")
        self.keys = keys
        return True

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, given: bytes) -> ApiKey | None:
        """The key that a client sent; all are compared, so that time does not tell which."""
        if len(given) > _MAX_KEY_BYTES:
            return None
        return next((key for key, is_it in [(key, key.matches(given)) for key in self.keys] if is_it), None)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write_new_key` wrote.

        Raises:
            ServeError: it is missing, damaged, or too large.
        """
        document = read_toml(path, mend=f"understudy key new NAME --file {path} makes it")
        entries = document.get("keys", {})
        if document.keys() - {"keys"} or not isinstance(entries, dict) or len(entries) > _MAX_KEYS:
            raise ServeError(f"{path} must hold tables [keys.NAME], at most {_MAX_KEYS}; see understudy key new.")
        return cls([_key(name, entry, path) for name, entry in entries.items()], path=path)


def write_new_key(
    path: Path,
    name: str,
    *,
    requests_per_minute: int | None = None,
    max_concurrent: int | None = None,
    may_reload: bool = False,
) -> str:
    """Draw a key and add its hash to a file, which is made if it is not there.

    Args:
        path: the file.
        name: of the key.
        requests_per_minute: its limit.
        max_concurrent: its limit.
        may_reload: it may have models read anew.

    Returns:
        The key; it is kept nowhere.

    Raises:
        ServeError: the name is taken or unfit, a limit is out of range, or the file cannot be read or written.
    """
    ring = KeyRing.read(path) if path.exists() else KeyRing()
    if name in [key.name for key in ring.keys]:
        raise ServeError(f"{path} has a key {name!r} already; choose another name, or delete its table there.")
    key = f"us-{secrets.token_urlsafe(32)}"
    limits = {"requests_per_minute": requests_per_minute, "max_concurrent": max_concurrent}
    kept = ApiKey.of(key, name=name, may_reload=may_reload, **limits)
    lines = ["", f"[keys.{name}]", f'salt = "{kept.salt.hex()}"', f'hash = "{kept.hash.hex()}"']
    lines += [f"{field} = {value}" for field in _LIMITS if (value := getattr(kept, field)) is not None]
    lines += ["may_reload = true"] if may_reload else []
    old = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    _replace(path, old + "\n".join(lines) + "\n")
    return key


def _key(name: str, entry: Any, path: Path) -> ApiKey:
    may = (*_LIMITS, "may_reload")
    known = {"salt", "hash", *may}
    if not isinstance(entry, dict) or not {"salt", "hash"} <= entry.keys() or entry.keys() - known:
        raise ServeError(f"[keys.{name}] of {path} must have salt and hash, and may have {', '.join(may)}.")
    try:
        salt, digest = bytes.fromhex(entry["salt"]), bytes.fromhex(entry["hash"])
    except (TypeError, ValueError) as error:
        raise ServeError(f"[keys.{name}] of {path} has a salt or hash that is no hexadecimal text.") from error
    limits = {field: entry.get(field) for field in _LIMITS}
    return ApiKey(name=name, salt=salt, hash=digest, may_reload=entry.get("may_reload", False), **limits)


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all, for the owner's eyes only."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise ServeError(f"{path} cannot be written: {error.strerror}; choose another place with --file.") from error
