"""Chance that repeats: a number from a seed and a name, whatever was drawn before it."""

import hashlib

__all__ = ["draw"]


def draw(seed: int, *names: object) -> float:
    """A number from 0 up to 1, the same for the same seed and names on every machine.

    Each draw stands for itself, so that an entry added to a lorebook does not change the luck of the others.
    """
    text = "\x1f".join(map(str, (seed, *names)))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
