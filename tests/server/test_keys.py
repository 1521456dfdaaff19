import stat
from pathlib import Path

import pytest

from understudy.errors import ServeError
from understudy.server.keys import ApiKey, KeyRing, write_new_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_new_key_opens_and_is_kept_nowhere(file: Path) -> None:
    first, second = write_new_key(file, "studio"), write_new_key(file, "tester", requests_per_minute=60)
    ring = KeyRing.read(file)
    assert [key.name for key in ring.keys] == ["studio", "tester"]
    found = ring.find(second.encode())
    assert found is not None
    assert (found.name, found.requests_per_minute, found.max_concurrent) == ("tester", 60, None)
    assert ring.find(first.encode()) is ring.keys[0]
    assert first not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys.toml"]


@pytest.mark.parametrize("given", [b"", b"us-", b"studio", b"\xff"])
def test_other_keys_do_not(file: Path, given: bytes) -> None:
    key = write_new_key(file, "studio").encode()
    ring = KeyRing.read(file)
    assert all(ring.find(wrong) is None for wrong in (given, key[:-1], key + b"x", key.upper()))
    assert ring.find(ring.keys[0].hash.hex().encode()) is None


def test_one_key_twice_has_two_hashes() -> None:
    one, two = ApiKey.of("secret", name="a"), ApiKey.of("secret", name="b")
    assert one.hash != two.hash
    assert one.matches(b"secret") and two.matches(b"secret")


def test_a_name_that_is_taken_changes_nothing(file: Path) -> None:
    write_new_key(file, "studio")
    before = file.read_text()
    with pytest.raises(ServeError, match="has a key 'studio' already"):
        write_new_key(file, "studio")
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "a]\n[keys.b"])
def test_unfit_names(file: Path, name: str) -> None:
    with pytest.raises(ServeError, match="name must be"):
        write_new_key(file, name)
    assert not file.exists()


GOOD = f'salt = "{"00" * 16}"\nhash = "{"11" * 32}"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys = 3", "must hold tables"),
        ("[other]", "must hold tables"),
        ("[keys.a]", "must have salt and hash"),
        (f"[keys.a]\n{GOOD}\nmax = 3", "must have salt and hash"),
        ('[keys.a]\nsalt = "zz"\nhash = "zz"', "no hexadecimal"),
        ("[keys.a]\nsalt = 3\nhash = 4", "no hexadecimal"),
        ('[keys.a]\nsalt = "00"\nhash = "00"', "damaged hash or salt"),
        (f"[keys.a]\n{GOOD}\nmax_concurrent = 0", "whole number from 1"),
        (f"[keys.a]\n{GOOD}\nrequests_per_minute = 1.5", "whole number from 1"),
        ("[keys.a", "is no TOML"),
    ],
)
def test_damaged_files(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ServeError, match=message):
        KeyRing.read(file)


def test_a_missing_file_says_how_to_make_it(file: Path) -> None:
    with pytest.raises(ServeError, match="understudy key new NAME --file"):
        KeyRing.read(file)


def test_keys_come_and_go_while_the_server_runs(file: Path) -> None:
    own = ApiKey.of("secret", name="default")
    first = write_new_key(file, "studio").encode()
    ring = KeyRing(KeyRing.read(file).keys, own=[own], path=file)
    second = write_new_key(file, "tester").encode()
    assert ring.find(second) is None
    assert ring.renew()
    assert [key.name for key in ring.keys] == ["default", "studio", "tester"]
    head, _, tail = file.read_text().partition("[keys.studio]")
    file.write_text(head + "[keys.tester]" + tail.partition("[keys.tester]")[2])
    assert ring.renew()
    assert ring.find(first) is None and ring.find(second) and ring.find(b"secret")
    assert not KeyRing([own]).renew()


@pytest.mark.parametrize("content", ["[keys", "", None])
def test_a_file_that_went_bad_leaves_the_old_keys(file: Path, content: str | None) -> None:
    key = write_new_key(file, "studio").encode()
    ring = KeyRing.read(file)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(ServeError):
        ring.renew()
    assert ring.find(key)
