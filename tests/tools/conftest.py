"""Vocabularies and engines for constrained output."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from understudy.engine import Engine, EngineOptions, GenerationRequest, SamplingParams
from understudy.kernels.native import native_module
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ReferenceBackend
from understudy.prompt.template import MARKERS, stop_token_ids, visible_specials
from understudy.testing import json_tokenizer, sentencepiece_tokenizer, tiny_model
from understudy.tools.grammar import Grammar
from understudy.tools.guidance import GuidanceVocabulary

EOS = 3


class Writer:
    """A model, its vocabulary, and an engine that is closed at the end."""

    def __init__(self, model: LoadedModel, *, is_native: bool = False) -> None:
        self.model, self.tokenizer = model, model.tokenizer
        self.stop_ids = stop_token_ids(model.tokenizer, EOS)
        self.vocabulary = GuidanceVocabulary(
            model.tokenizer, vocab_size=model.config.vocab_size, stop_token_ids=self.stop_ids
        )
        self.is_native = is_native
        self.engines: list[Engine] = []
        self.engine = self.open()

    def open(self, **options: Any) -> Engine:
        kind = CpuBackend if self.is_native else ReferenceBackend
        backend = kind(self.model.config, self.model.weights)
        self.engines.append(Engine(backend, self.tokenizer, options=EngineOptions(**options)))
        return self.engines[-1]

    def request(self, grammar: Grammar, *, prompt: str = "x", seed: int = 0, **fields: Any) -> GenerationRequest:
        temperature = fields.pop("temperature", 1.0)
        defaults: dict[str, Any] = {
            "prompt_ids": tuple(self.tokenizer.encode(prompt)),
            "sampling": SamplingParams(temperature=temperature, seed=seed),
            "stop_token_ids": self.stop_ids,
            "visible_specials": visible_specials(self.tokenizer),
            "max_tokens": 300,
            "constraint": self.vocabulary.compile(grammar),
        }
        return GenerationRequest(**{**defaults, **fields})

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


@pytest.fixture(scope="session")
def tiny() -> Iterator[Writer]:
    writer = Writer(tiny_model())
    yield writer
    writer.close()


@pytest.fixture(scope="session")
def odd() -> Iterator[list[Writer]]:
    """Random models of odd vocabularies; some have more rows than tokens."""
    tokenizers = [
        json_tokenizer(("<pad>", "<unk>", "<s>", "</s>", *MARKERS)),
        json_tokenizer(("<pad>", "<unk>", "<s>", "</s>")),
        sentencepiece_tokenizer(has_lead=False),
        sentencepiece_tokenizer(has_lead=True),
    ]
    writers = []
    for number, tokenizer in enumerate(tokenizers):
        model = tiny_model(seed=number, vocab_size=tokenizer.vocab_size + 7 * number)
        writers.append(Writer(dataclasses.replace(model, tokenizer=tokenizer)))
    yield writers
    for writer in writers:
        writer.close()


@pytest.fixture(scope="session")
def harrow() -> Iterator[Writer]:
    if native_module() is None:
        pytest.skip("the native kernels are not built")
    writer = Writer(load_model(embedded_model_path()), is_native=True)
    yield writer
    writer.close()
