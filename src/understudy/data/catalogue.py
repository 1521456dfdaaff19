"""Where the public corpora come from: repository, commit, licence and hash of every file."""

import dataclasses
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from understudy.errors import DataError

__all__ = ["CorpusFile", "PublicSource", "check_file", "fetch_file", "public_sources", "sources_of"]

_BLOCK = 1 << 20
_TIMEOUT_S = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """A packed file of a public source.

    Attributes:
        path: within the folder of the corpora.
        sha256: of the packed file.
        packed_bytes: its size.
        documents: records or books in it.
        words: words in it.
    """

    path: str
    sha256: str
    packed_bytes: int
    documents: int
    words: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicSource:
    """A public source.

    Attributes:
        title: its name for people.
        corpora: what recipes call it.
        licence: SPDX identifier.
        repository: where it was taken from.
        commit: of the repository; None where it spans many.
        evaluation: whether it is only measured with, never trained on.
        files: what a folder of corpora holds of it.
    """

    title: str
    corpora: tuple[str, ...]
    licence: str
    repository: str
    commit: str | None
    evaluation: bool
    files: tuple[CorpusFile, ...]


def public_sources() -> list[PublicSource]:
    """All sources of `catalogue.json`."""
    raw = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    return [
        PublicSource(
            **{key: value for key, value in entry.items() if key not in ("files", "corpora")},
            corpora=tuple(entry["corpora"]),
            files=tuple(CorpusFile(**file) for file in entry["files"]),
        )
        for entry in raw
    ]


def sources_of(corpora: Iterable[str]) -> list[PublicSource]:
    """The sources that corpora are read from; our own worlds and generated dialogues need no file."""
    wanted = set(corpora)
    return [source for source in public_sources() if wanted & set(source.corpora)]


def check_file(file: CorpusFile, folder: Path) -> None:
    """Compare a file with the catalogue.

    Raises:
        DataError: it is missing, or has another content.
    """
    path = folder / file.path
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; understudy data FOLDER --from URL fetches it from a mirror.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if digest.hexdigest() != file.sha256:
        raise DataError(
            f"{path} is not the file of the catalogue (its SHA-256 begins {digest.hexdigest()[:12]}, expected "
            f"{file.sha256[:12]}); fetch it again, or give your own text a source of its own in the recipe."
        )


def fetch_file(file: CorpusFile, folder: Path, mirror: str, progress: Callable[[int], None]) -> None:
    """Download a file; goes on where an interrupted download stopped.

    Args:
        file: which.
        folder: of the corpora.
        mirror: address that the file's path is appended to.
        progress: takes the bytes that came since the last call.

    Raises:
        DataError: the mirror does not give it, gives more than the catalogue says, or another content.
    """
    target = folder / file.path
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        with part.open("ab") as out:
            for block in _download(f"{mirror.rstrip('/')}/{file.path}", have):
                if out.tell() + len(block) > file.packed_bytes:
                    raise DataError(f"{mirror} gives more for {file.path} than the catalogue says; choose another.")
                out.write(block)
                progress(len(block))
    except OSError as error:
        raise DataError(f"{file.path} cannot be fetched from {mirror}: {error}; run it again to go on.") from error
    try:
        check_file(dataclasses.replace(file, path=str(part.relative_to(folder))), folder)
    except DataError:
        part.unlink()
        raise
    part.replace(target)


def _download(address: str, offset: int) -> Iterator[bytes]:
    if not address.startswith(("https://", "http://")):
        raise DataError(f"{address!r} is no web address; begin it with https://.")
    request = urllib.request.Request(address, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            skip = offset if answer.status == 200 else 0
            while block := answer.read(_BLOCK):
                yield block[skip:]
                skip = max(0, skip - len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            return
        raise
