import json
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import DataError
from understudy.testing import byte_tokenizer
from understudy.training.calibration import draw_batches, encode_documents, read_documents

TURNS = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Well met."}]


def test_texts_and_dialogues_become_one_stream(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The ferry.", encoding="utf-8")
    lines = [{"text": "Dawn."}, {"system": "You are Nell.", "turns": TURNS}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    documents = read_documents([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    tokenizer = byte_tokenizer()
    ids = encode_documents(documents, tokenizer, eos=3)
    text = b"".join(b"|" if i == 3 else tokenizer.token_bytes(int(i)) for i in ids).decode()
    assert text.startswith("The ferry.|Dawn.|")
    assert "You are Nell." in text
    assert "Well met." in text
    assert any(tokenizer.is_special(int(i)) and i != 3 for i in ids)


def test_a_worlds_dialogues_name_their_tools(tmp_path: Path) -> None:
    bell = {"type": "function", "function": {"name": "ring_bell", "description": "Ring it.", "parameters": {}}}
    (tmp_path / "tools.json").write_text(json.dumps([bell]), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps({"turns": TURNS, "tools": ["ring_bell", bell]}), encoding="utf-8")
    (document,) = read_documents([tmp_path / "a.jsonl"])
    assert isinstance(document, dict)
    assert document["tools"] == [bell, bell]
    text = byte_tokenizer().decode(encode_documents([document], byte_tokenizer(), eos=3).tolist())
    assert text.count("Ring it.") == 2
    (tmp_path / "tools.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="no list of tools"):
        read_documents([tmp_path / "a.jsonl"])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pdf", b"", "expected .txt"),
        ("a.txt", b"\xff\xfe\xff", "no UTF-8"),
        ("a.jsonl", b'{"body": "x"}', 'keys body; expected "text", or "turns"'),
        ("a.jsonl", b'{"turns": [{}]}', "that have roles each"),
        ("a.jsonl", b'{"turns": [], "tools": ["ring_bell"]}', "the tool 'ring_bell', which no tools.json"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_documents([tmp_path / name])


def test_windows_do_not_overlap_and_the_seed_decides() -> None:
    stream = np.arange(105, dtype=np.uint32)
    batches = draw_batches(stream, samples=10, length=10, rows=4, seed=1)
    assert [tuple(b.shape) for b in batches] == [(4, 10), (4, 10), (2, 10)]
    rows = np.concatenate([b.numpy() for b in batches])
    assert np.array_equal(np.sort(rows.ravel()), np.arange(100))
    again = np.concatenate([b.numpy() for b in draw_batches(stream, samples=10, length=10, rows=4, seed=1)])
    other = np.concatenate([b.numpy() for b in draw_batches(stream, samples=10, length=10, rows=4, seed=2)])
    assert np.array_equal(rows, again)
    assert not np.array_equal(rows, other)


@pytest.mark.parametrize("samples", [0, 11])
def test_too_few_tokens_are_an_error(samples: int) -> None:
    with pytest.raises(DataError, match="hold 10 samples of 10 tokens"):
        draw_batches(np.arange(105), samples=samples, length=10)
