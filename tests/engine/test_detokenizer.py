import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.engine import TextAssembler
from understudy.testing import byte_tokenizer
from understudy.tokenizer import Tokenizer

BYTES = byte_tokenizer()
FIRST_BYTE = BYTES.encode("\x00")[0]


class ChunkTokenizer(Tokenizer):
    """Tokens 0, 1, ... are the given stretches of bytes."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__(BYTES.definition)
        self.chunks = pieces

    def token_bytes(self, token_id: int) -> bytes:
        return self.chunks[token_id]


def assemble(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    assembler = TextAssembler(ChunkTokenizer(pieces), stop=stop)
    chunks = [assembler.push(i) for i in range(len(pieces))]
    return [*chunks, assembler.finish()], assembler.is_stopped


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The rule, spelled out: read character by character until a stop string is complete."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def split(data: bytes, borders: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(b % (len(data) + 1) for b in borders)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


few_letters = st.text(alphabet="ab<é🙂", max_size=30)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(text=few_letters | st.text(max_size=30), borders=st.lists(st.integers(0, 200), max_size=30), data=st.data())
def test_chunks_are_the_text_cut_at_the_first_stop(text: str, borders: list[int], data: st.DataObject) -> None:
    stop = tuple(data.draw(st.lists(st.text(alphabet="ab<é🙂", min_size=1, max_size=4), max_size=3)))
    chunks, is_stopped = assemble(split(text.encode(errors="replace"), borders), stop)
    whole = text.encode(errors="replace").decode()
    assert ("".join(chunks), is_stopped) == cut(whole, stop)
    assert all(whole.count("\ufffd") or "\ufffd" not in c for c in chunks)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(data=st.binary(max_size=30), borders=st.lists(st.integers(0, 200), max_size=30))
def test_bytes_that_are_no_utf8(data: bytes, borders: list[int]) -> None:
    chunks, _ = assemble(split(data, borders))
    assert "".join(chunks) == data.decode(errors="replace")


def test_nothing_is_held_back_without_need() -> None:
    assert assemble([b"He", b"llo", b" W"], ("\nUser",))[0] == ["He", "llo", " W", ""]
    assert assemble([b"a\n", b"U", b"ncle"], ("\nUser",))[0] == ["a", "", "\nUncle", ""]
    assert assemble(["é".encode()[:1], "é".encode()[1:]])[0] == ["", "é", ""]


def test_a_character_that_never_ends() -> None:
    assert assemble([b"hm", "🙂".encode()[:2]])[0] == ["hm", "", "\ufffd"]


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"a", b"b", b"c", b"d"], [b"ab", b"cd"], [b"abc", b"d"]])
def test_overlapping_stops_do_not_hang_on_token_borders(pieces: list[bytes]) -> None:
    assert "".join(assemble(pieces, ("abcd", "bc"))[0]) == "a"
    assert "".join(assemble(pieces, ("abc", "bc"))[0]) == ""


def test_after_the_stop_nothing_comes() -> None:
    chunks, is_stopped = assemble([b"one", b" END two", b" three"], ("END",))
    assert chunks == ["one", " ", "", ""]
    assert is_stopped


def test_special_tokens_are_silent_unless_asked_for() -> None:
    turn, call = BYTES.special_id("<extra_id_1>"), BYTES.special_id("<toolcall>")
    assert turn is not None
    assert call is not None
    ids = [*BYTES.encode("a"), turn, call, *BYTES.encode("{")]
    silent, loud = TextAssembler(BYTES), TextAssembler(BYTES, visible_specials={call: "<toolcall>"})
    assert "".join(map(silent.push, ids)) == "a{"
    assert "".join(map(loud.push, ids)) == "a<toolcall>{"
