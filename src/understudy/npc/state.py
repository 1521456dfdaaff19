"""A session's file: what was said, always; the model's keys and values of it, if wanted and still of use.

The file is a ZIP archive, so that any tool opens it:

- `session.json`: the session's own document, the first member and not compressed, so that even a cut file gives it up.
- `state.json`: format, version, the model's fingerprint, and what the third member holds.
- `kv.zlib`: pages of keys and values of the tokens behind the shared persona, lossless.

Text is all that a session needs: without the third member, or with another model, the model reads the text again.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from understudy.engine import AnyEngine, KvPages
from understudy.engine.page_bytes import digest_pages, max_packed_bytes, pack_pages, unpack_pages
from understudy.errors import RequestError, SaveError
from understudy.model.config import NemotronConfig
from understudy.npc.document import replacing
from understudy.npc.fingerprint import ModelFingerprint

__all__ = [
    "KV_SHARE",
    "RandomState",
    "SavedState",
    "StateSize",
    "kv_limit",
    "load_document",
    "load_state",
    "planned_size",
    "restore_kv",
    "save_state",
]

KV_SHARE = 0.4  # of plain 8-bit keys and values, as much as a file takes where nobody says otherwise

_MAX_SHARE = 100.0
_FORMAT = "understudy-state"
_VERSION = 1
_SESSION, _STATE, _KV = "session.json", "state.json", "kv.zlib"
_MAX_JSON_BYTES = 64 << 20
_ZIP_BYTES = 1024  # headers of three members, and state.json without the token ids
_ID_BYTES = 9  # of a token id and its comma, at most
_KV_HEAD_BYTES = 256  # of headers and state.json, what keys and values add beside pages and token ids, at most
# What reading a broken archive or foreign JSON may raise.
_DAMAGE = (zipfile.BadZipFile, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError, struct.error)
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_SEED_LIMIT = 1 << 63

_log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class RandomState:
    """Where a session's chance has come to: a seed, and how many answers were drawn with it.

    Attributes:
        seed: of the session.
        num_drawn: seeds given out so far.

    Raises:
        RequestError: the seed is no whole number, or too large.
    """

    seed: int
    num_drawn: int = 0

    def __post_init__(self) -> None:
        if type(self.seed) is not int or abs(self.seed) >= _SEED_LIMIT:
            raise RequestError(f"seed must be a whole number below 2^63, got {self.seed!r:.40}.", param="seed")

    def next_seed(self) -> int:
        """The seed of the next answer, 0 to 2^63 - 1; the same after a restore as if there had been none."""
        text = f"{self.seed}/{self.num_drawn}"
        self.num_drawn += 1
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % _SEED_LIMIT

    def to_json(self) -> dict[str, int]:
        """For the session's document."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read what `to_json` gave.

        Raises:
            SaveError: it is something else.
        """
        names = ("seed", "num_drawn")
        fields: list[Any] = [value.get(name) for name in names] if isinstance(value, dict) else [None]
        if not all(type(f) is int and abs(f) < _SEED_LIMIT for f in fields) or fields[-1] < 0:
            raise SaveError(f'The random state must be whole numbers "seed" and "num_drawn", got {value!r:.80}.')
        return cls(seed=fields[0], num_drawn=fields[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateSize:
    """Bytes of a file, at most.

    Attributes:
        text_bytes: what was said, memory and random state.
        kv_bytes: keys and values, with the ids of their tokens. Without a limit lossless compression leaves about 96 %
            of these where a value has 8 bits, 84 % at 16.
    """

    text_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        """Of the whole file."""
        return self.text_bytes + self.kv_bytes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SavedState:
    """What a file held.

    Attributes:
        document: the session's own.
        kv: keys and values for `restore_kv`; None where there are none, or none of use.
        reason: why keys and values that were saved are of no use; None where all is well.
    """

    document: dict[str, Any]
    kv: KvPages | None = None
    reason: str | None = None


def kv_limit(config: NemotronConfig, num_tokens: int, share: float | None) -> int | None:
    """Bytes that keys and values may add to a file.

    Args:
        config: the model's shape.
        num_tokens: of the conversation, without what others share.
        share: of their plain 8-bit keys and values, which have a level a value and a scale of 4 bytes a head and token;
            above 0, at most 100. None for no limit.

    Raises:
        RequestError: the share is out of range.
    """
    if share is None:
        return None
    if not 0 < share <= _MAX_SHARE:
        raise RequestError(
            "kv_share must be a number above 0 and at most 100, e.g. 0.4, or nothing for all keys and values; got "
            f"{share!r:.40}.",
            param="kv_share",
        )
    return int(share * num_tokens * 2 * config.num_hidden_layers * config.num_key_value_heads * (config.head_dim + 4))


def planned_size(
    document: Mapping[str, Any],
    *,
    engine: AnyEngine,
    token_ids: Sequence[int] = (),
    start: int = 0,
    max_kv_bytes: int | None = None,
) -> StateSize:
    """How large a file would be, before anything is copied or written.

    Args:
        document: the session's own.
        engine: whose keys and values would be saved.
        token_ids: as of `Engine.export_prefix`; none for a file without keys and values.
        start: as of `Engine.export_prefix`.
        max_kv_bytes: as of `save_state`.

    Raises:
        SaveError: the document is no JSON.
    """
    text_bytes = len(_encoded(document)) + _ZIP_BYTES
    kv = engine.facts.kv
    num_tokens = len(token_ids) - start
    if num_tokens <= 0 or kv is None:
        return StateSize(text_bytes=text_bytes, kv_bytes=0)
    num_pages = -(-(num_tokens + start % kv.page_tokens) // kv.page_tokens)
    most = max_packed_bytes(num_pages * kv.page_bytes) + _ID_BYTES * len(token_ids) + _KV_HEAD_BYTES
    return StateSize(text_bytes=text_bytes, kv_bytes=most if max_kv_bytes is None else min(most, max_kv_bytes))


def save_state(
    path: Path,
    document: Mapping[str, Any],
    *,
    fingerprint: ModelFingerprint,
    kv: KvPages | None = None,
    max_kv_bytes: int | None = None,
) -> int:
    """Write a session's file, whole or not at all.

    Args:
        path: where to; a file there is replaced.
        document: the session's own, of JSON's types.
        fingerprint: of the model that speaks.
        kv: of `Engine.export_prefix`; None saves what was said alone.
        max_kv_bytes: what these may add to the file; of pages that do not all fit, the first ones are kept. None for no
            limit.

    Returns:
        The file's size, in bytes.

    Raises:
        SaveError: the file cannot be written, or the document is no JSON.
    """
    session = _encoded(document)
    state: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "model": dataclasses.asdict(fingerprint)}
    packed = b""
    if kv is not None:
        room = None
        if max_kv_bytes is not None:
            room = max_kv_bytes - _KV_HEAD_BYTES - len(json.dumps(kv.token_ids))
        num_pages, packed = pack_pages(kv, max_bytes=room)
        kv = kv.first(num_pages) if num_pages else None
    if kv is not None:
        state["kv"] = {"start": kv.start, "token_ids": list(kv.token_ids), "digest": digest_pages(kv)}
    try:
        with replacing(path) as file:
            with zipfile.ZipFile(file, "w") as archive:
                _add(archive, _SESSION, session)
                _add(archive, _STATE, _encoded(state))
                if kv is not None:
                    _add(archive, _KV, packed)
            size = file.tell()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SaveError(f"Cannot save to {path}: {why}. Choose a file in a folder that exists.") from error
    return size


def load_state(path: Path, *, engine: AnyEngine, fingerprint: ModelFingerprint) -> SavedState:
    """Read a session's file; keys and values that cannot be trusted are left out with a warning, never guessed at.

    A file of plain JSON, as earlier versions wrote it, is a document without keys and values.

    Args:
        path: what `save_state` wrote.
        engine: of the model that will speak.
        fingerprint: of that model.

    Raises:
        SaveError: the file is missing, or what was said cannot be read from it.
    """
    try:
        with path.open("rb") as file:
            if file.read(1) in (b"{", b"\xef"):
                file.seek(0)
                return SavedState(document=_parsed(file.read(_MAX_JSON_BYTES + 1), path))
            state = _read(file, path, engine, fingerprint)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SaveError(f"Cannot read {path}: {why}. Give a file that was saved before.") from error
    if state.reason:
        _log.warning("%s: %s; the model reads the text again.", path, state.reason)
    return state


def load_document(path: Path) -> dict[str, Any]:
    """Read what was said from a session's file; its keys and values are not looked at.

    Raises:
        SaveError: the file is missing, or what was said cannot be read from it.
    """
    try:
        with path.open("rb") as file:
            if file.read(1) in (b"{", b"\xef"):
                file.seek(0)
                return _parsed(file.read(_MAX_JSON_BYTES + 1), path)
            try:
                with zipfile.ZipFile(file) as archive:
                    said = _member(archive, _SESSION, _MAX_JSON_BYTES)
            except _DAMAGE:
                said = _first_member(file, path)
            return _parsed(said, path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SaveError(f"Cannot read {path}: {why}. Give a file that was saved before.") from error


def restore_kv(engine: AnyEngine, kv: KvPages) -> int:
    """Put saved keys and values back, so that the next prompt that begins so is read from there on.

    The tokens before them, a persona that many sessions share, are read first where they are not cached. Waits for it.

    Args:
        engine: of the same model.
        kv: of `load_state`.

    Returns:
        How many of `kv.token_ids` are cached now.

    Raises:
        EngineError: the pages are not this model's, or the engine is closed.
    """
    num_cached = engine.import_prefix(kv)
    if num_cached < kv.start:
        engine.warm(kv.token_ids[: kv.start], priority=0).text()
        num_cached = engine.import_prefix(kv)
    if num_cached < len(kv.token_ids):
        _log.warning("%d of %d saved tokens found room in the cache.", num_cached, len(kv.token_ids))
    return num_cached


def _read(file: BinaryIO, path: Path, engine: AnyEngine, fingerprint: ModelFingerprint) -> SavedState:
    try:
        archive = zipfile.ZipFile(file)
        said = _member(archive, _SESSION, _MAX_JSON_BYTES)
    except _DAMAGE as error:
        document = _parsed(_first_member(file, path), path)
        return SavedState(document=document, reason=f"the file is damaged ({error})")
    document = _parsed(said, path)
    with archive:
        try:
            state = json.loads(_member(archive, _STATE, _MAX_JSON_BYTES))
            kv = _kept(archive, state, engine, fingerprint)
        except _UselessError as error:
            return SavedState(document=document, reason=str(error))
        except _DAMAGE as error:
            return SavedState(document=document, reason=f"its keys and values are damaged ({error})")
    return SavedState(document=document, kv=kv)


class _UselessError(Exception):
    """Saved keys and values are sound, but not for this model."""


def _kept(archive: zipfile.ZipFile, state: Any, engine: AnyEngine, fingerprint: ModelFingerprint) -> KvPages | None:
    """The keys and values of a file, after every check.

    Raises:
        _UselessError: they are another model's.
        Exception: one of `_DAMAGE`.
    """
    layout, config = engine.facts.kv, engine.config
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{_STATE} is foreign")
    if state.get("version") != _VERSION:
        raise _UselessError(
            f"it was saved in version {state.get('version')!r:.20} of the format, this one is {_VERSION}"
        )
    if difference := fingerprint.difference(state.get("model")):
        raise _UselessError(f"it was saved by another model: {difference}")
    head = state.get("kv")
    if head is None or layout is None:
        return None
    ids, start = head["token_ids"], head["start"]
    is_sound = isinstance(ids, list) and all(type(i) is int and 0 <= i < config.vocab_size for i in ids)
    if not is_sound or type(start) is not int or not 0 <= start < len(ids) <= config.max_position_embeddings:
        raise ValueError(f"{_STATE} names tokens that this model cannot have")
    if start % layout.page_tokens:
        raise ValueError(f"{_STATE} begins in the middle of a page")
    num_pages = -(-(len(ids) - start) // layout.page_tokens)
    packed = _member(archive, _KV, max_packed_bytes(num_pages * layout.page_bytes))
    kv = unpack_pages(
        packed,
        token_ids=tuple(ids),
        start=start,
        shape=(num_pages, layout.page_bytes),
        value_bytes=layout.value_bytes,
        kv_format=layout.format,
        page_tokens=layout.page_tokens,
    )
    if digest_pages(kv) != head.get("digest"):
        raise ValueError("they are not those of the tokens beside them")
    return kv


def _encoded(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=True, allow_nan=False).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise SaveError(
            f"The session cannot be saved as JSON: {error}. Keep texts, numbers and lists in it."
        ) from error


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    if len(data) > _MAX_JSON_BYTES:
        raise SaveError(f"{path} is larger than 64 MiB; that is no saved session.")
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SaveError(f"{path} is damaged: what was said is no valid JSON ({error}). Take an older save.") from error
    if not isinstance(document, dict):
        raise SaveError(f"{path} is no saved session: its JSON is no object. Give another file.")
    return document


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_STORED)  # no time of day: same session, same bytes


def _member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """A member's bytes; one that is compressed or too large is not read at all."""
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise zipfile.BadZipFile(f"{name} is missing") from error
    is_plain = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    if not is_plain or info.flag_bits & 1 or info.file_size > max_bytes:
        raise zipfile.BadZipFile(f"{name} has {info.file_size} bytes or is packed, expected at most {max_bytes} as is")
    return archive.read(info)


def _first_member(file: BinaryIO, path: Path) -> bytes:
    """What was said, of a file whose table of contents is cut off or broken.

    Raises:
        SaveError: not even that is whole.
    """
    file.seek(0)
    head = file.read(_LOCAL_HEADER.size)
    with contextlib.suppress(struct.error):
        signature, _, flags, method, _, _, crc, size, _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(head)
        if signature == b"PK\3\4" and not flags & 9 and method == zipfile.ZIP_STORED and size <= _MAX_JSON_BYTES:
            name = file.read(name_bytes)
            file.read(extra_bytes)
            data = file.read(size)
            if name == _SESSION.encode() and zlib.crc32(data) == crc:
                return data
    raise SaveError(f"{path} is no saved session, or is damaged beyond what was said. Take an older save.")
