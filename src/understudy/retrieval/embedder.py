"""What turns texts into vectors: an endpoint, or a sentence-transformers folder; or nothing, for words alone."""

import hashlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.errors import LoreError

__all__ = ["Embedder", "EndpointEmbedder", "FolderEmbedder", "embed_texts", "open_embedder"]

_MAX_ANSWER_BYTES = 64 << 20
_MAX_DIMENSIONS = 8192
_TIMEOUT_S = 30.0


class Embedder(Protocol):
    """Makes a vector of a text; texts that mean the same get vectors that point the same way."""

    @property
    def name(self) -> str:
        """Says which model it is; vectors of two names are never compared."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, D] of N texts, of any length but zero.

        Raises:
            LoreError: it cannot.
        """
        ...


class EndpointEmbedder:
    """Any server with OpenAI's `/v1/embeddings`."""

    def __init__(self, url: str, model: str, *, api_key: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        """Describe the server; nothing is sent yet.

        Args:
            url: up to and with the version, e.g. "http://127.0.0.1:11434/v1".
            model: its name there.
            api_key: sent as a bearer token.
            timeout_s: longest wait for an answer.

        Raises:
            LoreError: the address is no http or https URL, or the key cannot be sent.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets that do not close, a port that is no number
            is_address = False
        if not is_address or not model:
            raise LoreError(
                f"{url!r} is no address of an embedder: expected http://HOST:PORT/v1#MODEL, "
                "e.g. http://127.0.0.1:11434/v1#nomic-embed-text."
            )
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise LoreError("The embedder's key has a line break or a foreign character in it. Give the key alone.")
        self._url = f"{url.rstrip('/')}/embeddings"
        self._model, self._api_key, self._timeout_s = model, api_key, timeout_s

    @property
    def name(self) -> str:
        """The model's name: the same model may move to another server."""
        return f"endpoint {self._model}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Ask for the vectors of all texts at once."""
        body = json.dumps({"model": self._model, "input": list(texts), "encoding_format": "float"}).encode()
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self._url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                content = answer.read(_MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(300).decode("utf-8", "replace")
            raise LoreError(
                f"The embedder {self._url} refused, status {error.code}: {' '.join(said.split())}"
            ) from error
        except (OSError, UnicodeError, http.client.HTTPException) as error:  # UnicodeError: no name of a host
            why = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise LoreError(f"The embedder {self._url} does not answer: {why}. Is it running?") from error
        if len(content) > _MAX_ANSWER_BYTES:
            raise LoreError(f"The embedder {self._url} answered with more than 64 MiB. Is it an embedder?")
        return _vectors(content, len(texts), self._url)


class FolderEmbedder:
    """A sentence-transformers model in a folder; needs the package `sentence-transformers`."""

    def __init__(self, folder: Path) -> None:
        """Load the model; nothing is fetched from the network.

        Raises:
            LoreError: no such folder, or the package is missing or cannot read it.
        """
        if not folder.is_dir():
            raise LoreError(f"There is no folder {folder} with a sentence-transformers model.")
        try:
            import sentence_transformers
        except ImportError as error:
            raise LoreError(
                f"To read {folder}, the package sentence-transformers is needed ({error}): "
                "pip install sentence-transformers. Or use an endpoint, or no embedder."
            ) from error
        try:
            self._model: Any = sentence_transformers.SentenceTransformer(
                str(folder), device="cpu", local_files_only=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise LoreError(f"{folder} holds no sentence-transformers model that can be read: {error}") from error
        sizes = sorted(f"{p.relative_to(folder)} {p.stat().st_size}" for p in folder.rglob("*") if p.is_file())
        seal = hashlib.sha256("\n".join(sizes).encode() + _settings(folder)).hexdigest()
        self._name = f"folder {folder.resolve().name} {seal[:8]}"

    @property
    def name(self) -> str:
        """The folder's last name, and a seal of its files' sizes and its settings."""
        return self._name

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, in batches."""
        return np.asarray(self._model.encode(list(texts), show_progress_bar=False), dtype=np.float32)


def _settings(folder: Path) -> bytes:
    try:
        return (folder / "config.json").read_bytes()
    except OSError:
        return b""  # models of words alone have none


def open_embedder(spec: str, *, api_key: str | None = None) -> Embedder | None:
    """Open what a word or two names.

    Args:
        spec: "none" (words alone), `http://HOST:PORT/v1#MODEL`, or a folder.
        api_key: for an endpoint.

    Raises:
        LoreError: it names nothing that can be opened.
    """
    if spec in ("", "none"):
        return None
    if "://" in spec:
        url, _, model = spec.partition("#")
        return EndpointEmbedder(url, model, api_key=api_key)
    return FolderEmbedder(Path(spec))


def embed_texts(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors [N, D] of length 1.

    Raises:
        LoreError: the embedder fails, or answers with something else than N vectors of finite numbers.
    """
    found = np.asarray(embedder.embed(texts), dtype=np.float32)
    if found.ndim != 2 or len(found) != len(texts) or not 1 <= found.shape[1] <= _MAX_DIMENSIONS:
        raise LoreError(f"The embedder {embedder.name} gave the shape {found.shape} for {len(texts)} texts.")
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise LoreError(f"The embedder {embedder.name} gave a vector that is zero or not finite.")
    return np.asarray(found / lengths, dtype=np.float32)


def _vectors(content: bytes, num_texts: int, url: str) -> NDArray[np.float32]:
    try:
        data = json.loads(content)["data"]
        rows = {int(item["index"]): item["embedding"] for item in data}
        if sorted(rows) != list(range(num_texts)):
            raise ValueError(f"{len(rows)} vectors for {num_texts} texts")
        return np.array([rows[number] for number in range(num_texts)], dtype=np.float32)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LoreError(
            f"The embedder {url} answered with no list of embeddings: {error}. Is it an embedder?"
        ) from error
