"""Which licences let a model be made from a text and be shipped with attribution alone."""

from understudy.errors import DataError

__all__ = ["PERMISSIVE_LICENCES", "check_licence"]

PERMISSIVE_LICENCES = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0"),
        *("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "ODC-By-1.0", "PDDL-1.0"),
        *("Unlicense", "Zlib"),
    }
)


def check_licence(name: str, licence: str, *, is_allowed: bool) -> None:
    """Accept a permissive SPDX identifier, and any other one that the user takes upon himself.

    Args:
        name: of the source, for the message.
        licence: SPDX identifier; `LicenseRef-...` for one's own terms.
        is_allowed: the user has said that this licence is all right.

    Raises:
        DataError: no licence is stated, or it is not permissive and not allowed.
    """
    if not licence.strip():
        raise DataError(
            f'source {name!r}: its licence is not stated; add licence = "..." with an SPDX identifier such as '
            '"CC0-1.0" (for your own texts "LicenseRef-own" with allow_licence = true).'
        )
    if licence not in PERMISSIVE_LICENCES and not is_allowed:
        kind = "asks for the same licence or forbids uses" if _is_restrictive(licence) else "is not a known one"
        raise DataError(
            f"source {name!r}: the licence {licence!r} {kind}; accepted are {', '.join(sorted(PERMISSIVE_LICENCES))}. "
            "If you may use the texts all the same, say allow_licence = true."
        )


def _is_restrictive(licence: str) -> bool:
    parts = licence.upper().replace("+", "-").split("-")
    return bool({"SA", "NC", "GPL", "LGPL", "AGPL", "GFDL", "SHAREALIKE", "ODBL"} & set(parts))
