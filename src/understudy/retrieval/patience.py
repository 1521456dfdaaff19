"""An embedder that is waited for no longer than a line of dialogue can."""

import concurrent.futures
import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.errors import LoreError
from understudy.retrieval.embedder import Embedder, embed_texts

__all__ = ["PatientEmbedder"]

_MOST_AT_ONCE = 4


class PatientEmbedder:
    """Asks an embedder in threads of their own; safe from any thread.

    A thread cannot be stopped: what was given up goes on, and counts until it ends. Threads do not hold the program up
    when it ends.
    """

    def __init__(self, embedder: Embedder, *, most_at_once: int = _MOST_AT_ONCE) -> None:
        """Put a limit of time before an embedder.

        Args:
            embedder: who is asked; several threads may do so at once.
            most_at_once: further callers wait.
        """
        self._embedder = embedder
        self._places = threading.Semaphore(most_at_once)

    @property
    def name(self) -> str:
        """The embedder's."""
        return self._embedder.name

    def embed(self, texts: Sequence[str], *, wait_s: float | None = None) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1.

        Args:
            texts: N of them.
            wait_s: longest wait; None for as long as the embedder itself takes, in this thread.

        Raises:
            LoreError: the embedder fails, answers with something else, or takes too long.
        """
        if wait_s is None:
            return embed_texts(self._embedder, texts)
        until_s = time.monotonic() + wait_s
        if not self._places.acquire(timeout=max(wait_s, 0.0)):
            raise LoreError(f"The embedder {self.name} is still busy with earlier lines after {wait_s:.3g} s.")
        answer: concurrent.futures.Future[NDArray[np.float32]] = concurrent.futures.Future()
        threading.Thread(target=self._work, args=(texts, answer), name="understudy-embed", daemon=True).start()
        try:
            return answer.result(timeout=max(until_s - time.monotonic(), 0.0))
        except concurrent.futures.CancelledError as error:
            raise LoreError(f"The embedder {self.name} failed; what was printed says why.") from error
        except TimeoutError as error:
            raise LoreError(f"The embedder {self.name} did not answer within {wait_s:.3g} s.") from error

    def _work(self, texts: Sequence[str], answer: "concurrent.futures.Future[NDArray[np.float32]]") -> None:
        try:
            answer.set_result(embed_texts(self._embedder, texts))
        except LoreError as error:
            answer.set_exception(error)
        finally:
            self._places.release()
            answer.cancel()  # of one that is done already, this changes nothing
