"""A cache for backends that tests script: it remembers the tokens themselves."""

__all__ = ["ListCache"]


class ListCache:
    """What `engine.backend.Cache` asks for, over a plain list."""

    def __init__(self) -> None:
        """Start empty."""
        self.token_ids: list[int] = []

    @property
    def length(self) -> int:
        """Number of tokens remembered."""
        return len(self.token_ids)

    def fork(self, length: int) -> "ListCache":
        """A copy of the first `length` tokens."""
        assert 0 <= length <= self.length
        twin = type(self)()
        twin.token_ids = self.token_ids[:length]
        return twin

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on."""
        assert 0 <= length <= self.length
        del self.token_ids[length:]
