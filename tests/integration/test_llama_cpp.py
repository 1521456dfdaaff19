"""llama.cpp reads what we write, and computes what we compute."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.engine.backend import Step
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.transformer import ReferenceBackend
from understudy.testing import byte_tokenizer, random_tensors, tiny_config
from understudy.tokenizer import Tokenizer
from understudy.training.lora import adapter_state, attach_lora, named_adapters
from understudy.training.lora_files import write_gguf_adapters
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.recipe import LoraRecipe
from understudy.training.tokenizer import train_tokenizer

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = [
    "Hello, world! It's 1999; we'll pay 42 coppers.",
    "  two spaces,\n\nnew lines\t tab   ",
    "na\u00efve caf\u00e9 \u4e2d\u6587 \U0001f409\U0001f409 don't DON'T I'M",
    'a\u0308 x\u00b2 \u0663\u0664 <b>bold</b> {"name": "take"} --- ...',
]


@pytest.mark.parametrize("file_type", ["f16", "q8_0"])
@pytest.mark.parametrize("tie", [False, True])
def test_llama_cpp_computes_the_same_logits(tmp_path: Path, file_type: str, tie: bool) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    config = tiny_config(
        tie_word_embeddings=tie,
        hidden_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        norm_eps=1e-3,
    )
    path = tmp_path / "tiny.gguf"
    write_gguf(path, config, random_tensors(config), byte_tokenizer().definition, None, file_type=file_type)
    theirs = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    ids = byte_tokenizer().encode("The river remembers.")
    theirs.eval(ids)
    expected = np.asarray(theirs.scores[: len(ids)])
    model = load_model(path)
    backend = ReferenceBackend(model.config, model.weights)
    logits = backend.forward([Step(backend.new_cache(), ids, len(ids))])[0]
    # llama.cpp rounds activations to half precision or, before Q8_0 matrices, to eight bits
    assert np.abs(logits - expected).max() < (0.02 if file_type == "f16" else 0.2) * expected.std()


def test_llama_cpp_splits_text_the_same_way(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    train_tokenizer(TEXTS * 20, tmp_path / "tokenizer.json", vocab_size=500)
    definition = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    config = tiny_config(vocab_size=512)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, config, random_tensors(config), definition, None, file_type="f16")
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    ours = Tokenizer(definition)
    for text in [*TEXTS, *(t[::-1] for t in TEXTS)]:
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ours.encode(text), text
    assert theirs.tokenize(b"<extra_id_1>User", add_bos=False, special=True)[0] == ours.special_id("<extra_id_1>")


def test_llama_cpp_puts_our_adapters_beside_the_base(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    torch.manual_seed(3)
    config = tiny_config(hidden_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=24)
    tensors = random_tensors(config)
    write_gguf(tmp_path / "base.gguf", config, tensors, byte_tokenizer().definition, None, file_type="f16")
    recipe = LoraRecipe(rank=4, alpha=6.0)
    model = NemotronLM(config)
    from_hf_tensors(model, {name: torch.from_numpy(value) for name, value in tensors.items()})
    attach_lora(model, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_b." in name:
                parameter.normal_(std=0.1)
    write_gguf_adapters(tmp_path / "adapters.gguf", named_adapters(adapter_state(model)), recipe)
    ids = byte_tokenizer().encode("The river remembers.")
    logits = {}
    for lora in (None, str(tmp_path / "adapters.gguf")):
        theirs = llama_cpp.Llama(
            str(tmp_path / "base.gguf"), lora_path=lora, n_ctx=64, logits_all=True, verbose=False, n_threads=1
        )
        theirs.eval(ids)
        logits[lora is not None] = np.array(theirs.scores[: len(ids)])
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    assert np.abs(logits[True] - expected).max() < 0.02 * expected.std()
    assert np.abs(logits[True] - logits[False]).max() > 0.5 * expected.std()
