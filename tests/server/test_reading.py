import random
from collections.abc import Sequence

import pytest

from understudy.server.reading import CallPart, CallsReader, FormReader, Reader, WordsReader

ARGUMENTS = ['{"side": "a } \\" </toolcall> <toolcall> {"}', "{}", '{"a": {"b": [1, {"c": "\\\\"}]}, "é": "🕯"}']
CALLS = "\n".join(f'<toolcall> {{"name": "f{n}", "arguments": {a}}} </toolcall>' for n, a in enumerate(ARGUMENTS))


def read(reader: Reader, chunks: Sequence[str]) -> tuple[str, list[CallPart]]:
    """All words and all parts; no call begins before the words have ended."""
    words, parts = "", []
    for number, chunk in enumerate(chunks):
        new, found = reader.read(chunk, is_final=number == len(chunks) - 1)
        assert not (new and parts)
        words += new
        parts += found
    return words, parts


def cut(text: str, seed: int) -> list[str]:
    """The text in pieces of random sizes."""
    places = sorted(random.Random(seed).sample(range(len(text)), random.Random(seed).randint(0, len(text) - 1)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_calls_however_they_are_cut(seed: int) -> None:
    words, parts = read(CallsReader(), cut(f"  At once, {seed} <tool \n{CALLS}\n", seed))
    assert words == f"At once, {seed} <tool"
    heads = [part for part in parts if part.id]
    assert [part.name for part in heads] == ["f0", "f1", "f2"]
    assert len({part.id for part in heads}) == 3
    for number, arguments in enumerate(ARGUMENTS):
        own = [part for part in parts if part.number == number]
        assert own[0] is heads[number]
        assert "".join(part.arguments for part in own) == arguments
        assert [part.is_last for part in own] == [False] * (len(own) - 1) + [True]


def test_arguments_come_as_they_are_written() -> None:
    reader = CallsReader()
    reader.read('<toolcall> {"name": "f", "arguments": ', is_final=False)
    pieces = ['{"a', '": ', "1", "2", "}"]
    assert [reader.read(piece, is_final=False)[1][0].arguments for piece in pieces] == pieces


def test_a_call_that_is_cut_off_is_never_complete() -> None:
    for end in range(len(CALLS)):
        _, parts = read(CallsReader(), [CALLS[:end]])
        for number, arguments in enumerate(ARGUMENTS):
            own = [part for part in parts if part.number == number]
            text = "".join(part.arguments for part in own)
            assert arguments.startswith(text)
            assert any(part.is_last for part in own) == (text == arguments)


@pytest.mark.parametrize("text", ["<toolcal", "<", "a < b", "<tool> x", "  padded  "])
def test_words_under_tools(text: str) -> None:
    for chunks in ([text], list(text)):
        assert read(CallsReader(), chunks) == (text.replace("<tool>", "").strip(), [])


@pytest.mark.parametrize("seed", range(10))
def test_a_form_keeps_every_character(seed: int) -> None:
    text = f' {{"a": "{"<toolcall> <tool>"}"}} '
    assert read(FormReader(), cut(text, seed)) == (text, [])
    assert read(CallsReader(is_form=True), cut(text.strip(), seed)) == (text.strip(), [])
    assert read(CallsReader(is_form=True), [text[:7], text[7:]]) == (text, [])


@pytest.mark.parametrize("seed", range(10))
def test_calls_instead_of_a_form(seed: int) -> None:
    words, parts = read(CallsReader(is_form=True), cut(CALLS, seed))
    assert words == ""
    assert [part.name for part in parts if part.name] == ["f0", "f1", "f2"]


def test_calls_that_nobody_offered_are_words() -> None:
    text = 'So. <toolcall> {"name": "f", "arguments": {}} </toolcall>'
    assert read(WordsReader(), list(text)) == ('So.\n{"name": "f", "arguments": {}}', [])
