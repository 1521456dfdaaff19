"""TOML files that an operator writes."""

import tomllib
from pathlib import Path
from typing import Any

from understudy.errors import ServeError

__all__ = ["read_toml"]

_MAX_BYTES = 1 << 20


def read_toml(path: Path, *, mend: str) -> dict[str, Any]:
    """Read a file.

    Args:
        path: the file.
        mend: what to do where there is none.

    Raises:
        ServeError: it is missing, too large, or no TOML.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ServeError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; is it the right file?")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ServeError(f"There is no file {path}; {mend}.") from error
    except OSError as error:
        raise ServeError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, or no TOML
        raise ServeError(f"{path} is no TOML: {error}.") from error
