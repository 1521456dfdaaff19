"""Keys and values of a beginning, as pages that can leave the engine and come back."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from understudy.engine.backend import Backend, Cache
from understudy.engine.prefix import PrefixStore
from understudy.errors import EngineError

__all__ = ["KvLayout", "KvPages", "PagedBackend", "PagedCache", "Pager"]

_NO_TOKEN = -1  # put behind tokens: the search leaves the last one to compute, and here all may be found


@runtime_checkable
class PagedCache(Cache, Protocol):
    """A cache whose room can be taken first and filled later."""

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all, its own from the next token on."""
        ...

    def settle(self, token_ids: Sequence[int]) -> None:
        """Count tokens whose keys and values came from elsewhere into reserved room."""
        ...


@runtime_checkable
class PagedBackend(Backend, Protocol):
    """A backend that hands out a cache's content.

    Pages may be read and written from any thread: reading asks for a cache that nobody writes, such as a fork, and
    writing for one that nobody else holds.
    """

    @property
    def kv_format(self) -> str:
        """What the bytes of a page mean and how they were rounded; pages of another format are worthless here."""
        ...

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of `block_tokens` tokens."""
        ...

    @property
    def page_value_bytes(self) -> int:
        """Bytes of one key or value in a page."""
        ...

    def read_pages(self, cache: Cache, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """(P, page_bytes) keys and values of a stretch of tokens.

        Args:
            cache: of this backend.
            start: first token, at the beginning of a page.
            stop: behind the last token; what its page holds behind it comes out as zeros.
        """
        ...

    def write_pages(self, cache: Cache, start: int, pages: npt.NDArray[np.uint8]) -> None:
        """Put pages where `read_pages` took them from, into a cache with room for them."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class KvLayout:
    """How a backend's pages look.

    Attributes:
        format: as of `PagedBackend.kv_format`.
        page_tokens: tokens of a page.
        page_bytes: bytes of a page.
        value_bytes: bytes of one key or value.
    """

    format: str
    page_tokens: int
    page_bytes: int
    value_bytes: int

    @classmethod
    def of(cls, backend: Backend) -> Self | None:
        """A backend's; None where it hands out none."""
        if not isinstance(backend, PagedBackend):
            return None
        return cls(
            format=backend.kv_format,
            page_tokens=backend.block_tokens,
            page_bytes=backend.page_bytes,
            value_bytes=backend.page_value_bytes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KvPages:
    """Keys and values of the end of a beginning: what is to be added to a cache that holds the tokens before.

    Attributes:
        token_ids: (S,) the whole beginning.
        start: tokens of it that are not in the pages, e.g. a persona that many sessions share; whole pages.
        pages: (P, page_bytes) the others'.
        kv_format: the backend's that wrote them.
        value_bytes: bytes of one key or value.
        page_tokens: tokens of a page.
    """

    token_ids: tuple[int, ...]
    start: int
    pages: npt.NDArray[np.uint8]
    kv_format: str
    value_bytes: int
    page_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens in the pages."""
        return len(self.token_ids) - self.start

    def first(self, num_pages: int) -> "KvPages":
        """Only so many pages, and the tokens up to their end."""
        token_ids = self.token_ids[: self.start + num_pages * self.page_tokens]
        return dataclasses.replace(self, token_ids=token_ids, pages=self.pages[:num_pages])


class Pager:
    """Takes pages out of the engine's past sequences and puts them back.

    The model thread only finds, forks and reserves; bytes are copied in the caller's thread, so that nobody who speaks
    waits for them.
    """

    def __init__(
        self,
        backend: Backend,
        prefixes: PrefixStore,
        *,
        longest: Callable[[Sequence[int]], tuple[int, Cache | None]],
        call: Callable[[Callable[[], Any]], Any],
    ) -> None:
        """Called by the engine.

        Args:
            backend: computes the model.
            prefixes: past sequences, of which only the model thread may ask.
            longest: finds the cache with the longest beginning of some tokens, on the model thread.
            call: runs a function on the model thread and returns its result.
        """
        self._backend = backend
        self._prefixes = prefixes
        self._longest = longest
        self._call = call

    def take(self, token_ids: Sequence[int], *, start: int, max_bytes: int | None) -> KvPages | None:
        """Pages of as many of the tokens as are cached; see `Engine.export_prefix`."""
        backend = self._backend
        if not isinstance(backend, PagedBackend):
            return None
        start -= start % backend.block_tokens
        most = len(token_ids)
        if max_bytes is not None:
            most = min(most, start + max_bytes // backend.page_bytes * backend.block_tokens)

        def fork() -> Cache | None:
            length, donor = self._longest((*token_ids[:most], _NO_TOKEN))
            return donor.fork(length) if donor is not None and length > start else None

        cache: Cache | None = self._call(fork)
        if cache is None:
            return None
        return KvPages(
            token_ids=tuple(token_ids[: cache.length]),
            start=start,
            pages=backend.read_pages(cache, start, cache.length),
            kv_format=backend.kv_format,
            value_bytes=backend.page_value_bytes,
            page_tokens=backend.block_tokens,
        )

    def put(self, kept: KvPages) -> int:
        """Add pages to the past sequences; see `Engine.import_prefix`."""
        backend = self._checked(kept)

        def reserve() -> Cache | None:
            length, donor = self._longest((*kept.token_ids, _NO_TOKEN))
            if not kept.start <= length < len(kept.token_ids):
                return None
            cache = backend.new_cache() if donor is None or not kept.start else donor.fork(kept.start)
            while (free := backend.num_free_tokens()) is not None and free < kept.num_tokens + backend.block_tokens:
                if not self._prefixes.drop_oldest():
                    return None
            assert isinstance(cache, PagedCache)
            cache.reserve(len(kept.token_ids))
            return cache

        cache: PagedCache | None = self._call(reserve)
        if cache is not None:
            backend.write_pages(cache, kept.start, kept.pages)
            cache.settle(kept.token_ids[kept.start :])
            self._call(lambda: self._prefixes.put(kept.token_ids, cache))
        num_cached: int = self._call(lambda: self._longest((*kept.token_ids, _NO_TOKEN))[0])
        return num_cached

    def _checked(self, kept: KvPages) -> PagedBackend:
        backend, ids = self._backend, kept.token_ids
        if not isinstance(backend, PagedBackend) or kept.kv_format != backend.kv_format:
            raise EngineError(
                f"The pages are of the format {kept.kv_format!r}, which the {backend.name} backend does not read; "
                "let the model read the text again."
            )
        shape = (-(-kept.num_tokens // backend.block_tokens), backend.page_bytes)
        is_placed = 0 <= kept.start < len(ids) <= backend.config.max_position_embeddings
        if not is_placed or kept.start % backend.block_tokens or kept.pages.shape != shape:
            raise EngineError(
                f"{kept.pages.shape} bytes of pages from token {kept.start} do not fit {len(ids)} tokens of this "
                "model; let the model read the text again."
            )
        if not 0 <= min(ids) <= max(ids) < backend.config.vocab_size:
            raise EngineError("The pages' token ids are not of this vocabulary; let the model read the text again.")
        return backend
