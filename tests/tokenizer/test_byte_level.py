import pytest

from understudy.tokenizer import Tokenizer
from understudy.tokenizer.byte_level import byte_level_definition


def test_it_spells_every_text() -> None:
    tokenizer = Tokenizer(byte_level_definition(["<a>", "<b>"], vocab_size=300))
    assert tokenizer.vocab_size == 300
    ids = tokenizer.encode("Zoë 火\n")
    assert [i - 2 for i in ids] == list("Zoë 火\n".encode())
    assert b"".join(tokenizer.token_bytes(i) for i in ids).decode() == "Zoë 火\n"


def test_it_needs_room_for_the_bytes() -> None:
    with pytest.raises(ValueError, match="cannot hold 258"):
        byte_level_definition(["<a>", "<b>"], vocab_size=257)
