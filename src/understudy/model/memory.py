"""What a loaded model weighs."""

import dataclasses

__all__ = ["MemoryFigures"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryFigures:
    """Bytes that a backend holds.

    Attributes:
        weight_bytes: weights in the process's own memory.
        mapped_bytes: weights read from memory-mapped files; the system may drop and re-read them.
        cache_bytes_per_token: keys and values of one token in one sequence.
    """

    weight_bytes: int
    mapped_bytes: int
    cache_bytes_per_token: int
