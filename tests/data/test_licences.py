import pytest

from understudy.data.licences import PERMISSIVE_LICENCES, check_licence
from understudy.errors import DataError


def test_permissive_licences_pass() -> None:
    for licence in PERMISSIVE_LICENCES:
        check_licence("mine", licence, is_allowed=False)


@pytest.mark.parametrize(
    ("licence", "message"),
    [
        ("", "its licence is not stated"),
        ("  ", "its licence is not stated"),
        ("CC-BY-SA-4.0", "asks for the same licence or forbids uses"),
        ("CC-BY-NC-4.0", "asks for the same licence or forbids uses"),
        ("GPL-3.0-or-later", "asks for the same licence or forbids uses"),
        ("cc0", "is not a known one; accepted are .*CC0-1.0"),
    ],
)
def test_others_are_refused_with_a_way_out(licence: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"source 'mine'.*{message}"):
        check_licence("mine", licence, is_allowed=False)


def test_a_user_may_take_a_licence_upon_himself_but_must_name_one() -> None:
    check_licence("mine", "CC-BY-SA-4.0", is_allowed=True)
    check_licence("mine", "LicenseRef-own", is_allowed=True)
    with pytest.raises(DataError, match="not stated"):
        check_licence("mine", "", is_allowed=True)
