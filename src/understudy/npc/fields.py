"""Fields of JSON objects from outside, checked as they are read."""

import math
from collections.abc import Mapping
from typing import Any

from understudy.errors import CardError

__all__ = ["Fields", "kind_of"]

_MAX_SHOWN = 40


class Fields:
    """An object from outside; null is as good as a field that is not there.

    Each method reads one field.

    Raises:
        CardError: the object is none, or a field has the wrong type; the text says which, and what was expected.
    """

    def __init__(self, value: Any, source: str) -> None:
        if not isinstance(value, dict):
            raise CardError(f"{source} must be an object {{...}}, not {kind_of(value)}.")
        self.value: Mapping[str, Any] = value
        self.source = source

    def wrong(self, key: str, expected: str) -> CardError:
        """The error to raise for a field."""
        return CardError(f'{self.source}: "{key}" must be {expected}, not {_shown(self.value[key])}.')

    def text(self, key: str) -> str:
        """A text; empty where there is none."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a text")
        if value and any("\ud800" <= c <= "\udfff" for c in value):
            raise CardError(f'{self.source}: "{key}" has half of a UTF-16 surrogate pair. Write the whole character.')
        return value or ""

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where there is none."""
        value = self.value.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, 'a list of texts ["...", "..."]')
        return tuple(value)

    def object(self, key: str) -> Mapping[str, Any]:
        """An object; empty where there is none."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object {...}")
        return value or {}

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str, *, least: float = -math.inf) -> float | None:
        """A finite number."""
        value = self.value.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15 or value < least:
            raise self.wrong(key, f"a number from {least:g} up" if math.isfinite(least) else "a number")
        return value

    def count(self, key: str) -> int | None:
        """A number from 0 up."""
        value = self.number(key, least=0)
        return None if value is None else int(value)

    def one_of(self, key: str, num_values: int) -> int | None:
        """A whole number below `num_values`."""
        value = self.number(key)
        if value is not None and value not in range(num_values):
            raise self.wrong(key, f"a whole number from 0 to {num_values - 1}")
        return None if value is None else int(value)


def kind_of(value: Any) -> str:
    """What to call a JSON value in errors."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def _shown(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) or abs(value) < 1e15 else "a number too large"
    return kind_of(value)
