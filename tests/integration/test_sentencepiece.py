"""SentencePiece vocabularies that we write, read by llama.cpp."""

import json
from pathlib import Path

import pytest

from understudy.model.gguf_tokenizer import tokenizer_from_gguf
from understudy.model.gguf_writer import write_gguf
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.testing.tiny import random_tensors, tiny_config

GOLDEN = Path(__file__).parents[1] / "golden" / "sentencepiece"


@pytest.mark.peers
@pytest.mark.parametrize("name", ["prefix", "no_prefix"])
def test_llama_cpp_encodes_as_sentencepiece_does(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    keys = {f"tokenizer.ggml.{k}": golden[k] for k in ("tokens", "scores", "token_type", "add_space_prefix")}
    tokenizer = tokenizer_from_gguf({"tokenizer.ggml.model": "llama", **keys})
    config = tiny_config(vocab_size=len(golden["tokens"]))
    path = tmp_path / "model.gguf"
    write_gguf(path, config, random_tensors(config), tokenizer.definition, NEMOTRON_CHAT_TEMPLATE, file_type="f16")
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text, ids in golden["cases"]:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == ids, text
