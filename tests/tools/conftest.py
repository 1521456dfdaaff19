"""Vocabularies and engines for constrained output, and a maker of JSON schemas."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from understudy.engine import Engine, EngineOptions, GenerationRequest, SamplingParams
from understudy.kernels.native import native_module
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ReferenceBackend
from understudy.prompt.template import stop_token_ids, visible_specials
from understudy.testing import tiny_model
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
def harrow() -> Iterator[Writer]:
    if native_module() is None:
        pytest.skip("the native kernels are not built")
    writer = Writer(load_model(embedded_model_path()), is_native=True)
    yield writer
    writer.close()


class SchemaMaker:
    """Random JSON schemas of every keyword that is held."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.definitions: dict[str, Any] = {}

    def schema(self, depth: int = 3) -> dict[str, Any]:
        """A whole schema; some have definitions that refer to each other."""
        root = self.value(depth)
        return {**root, "$defs": self.definitions} if self.definitions else root

    def arguments(self, depth: int = 2) -> dict[str, Any]:
        """The schema of a function's arguments."""
        root = self.object(depth)
        return {**root, "$defs": self.definitions} if self.definitions else root

    def value(self, depth: int) -> dict[str, Any]:
        simple: list[Callable[[], dict[str, Any]]] = [self.string, self.whole, self.number, self.one_of, self.plain]
        if depth == 0:
            return self.random.choice(simple)()
        nested = [self.object, self.array, self.either, self.reference, self.combined]
        if self.random.random() < 0.4:
            return self.random.choice(simple)()
        return self.random.choice(nested)(depth - 1)

    def plain(self) -> dict[str, Any]:
        return self.random.choice(
            [{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}, {"const": "yes é"}]
        )

    def string(self) -> dict[str, Any]:
        return {
            "type": "string",
            **self.random.choice(
                [
                    {"maxLength": 12},
                    {"minLength": 2, "maxLength": 9},
                    {"pattern": "^[a-z]{2,5}( [a-z]{1,4})?$"},
                    {"pattern": "^(inn|gate)-[0-9]{1,3}$"},
                    {"pattern": "[0-9]x", "maxLength": 20},
                    {"format": self.random.choice(["date", "uuid", "ipv4", "date-time"])},
                ]
            ),
        }

    def whole(self) -> dict[str, Any]:
        low = self.random.randint(-2000, 2000)
        bounds = [{}, {"minimum": low}, {"maximum": low}, {"minimum": low, "exclusiveMaximum": low + 50}]
        return {"type": "integer", **self.random.choice([*bounds, {"multipleOf": self.random.randint(2, 30)}])}

    def number(self) -> dict[str, Any]:
        low = self.random.randint(-50, 50) / 4
        bounds = [{}, {"minimum": low}, {"exclusiveMinimum": low, "maximum": low + 3.5}, {"multipleOf": 0.5}]
        return {"type": self.random.choice(["number", ["number", "null"]]), **self.random.choice(bounds)}

    def one_of(self) -> dict[str, Any]:
        values = ["ale", "stew", 'a "q"', "x/\\y", "żółw", 3, -2.5, None, True, [1, "a"], {"k": 1}]
        return {"enum": self.random.sample(values, self.random.randint(1, 5))}

    def object(self, depth: int) -> dict[str, Any]:
        names = self.random.sample(
            ["name", "room", "n", "with space", "é", 'quo"te', "is_open"], self.random.randint(0, 4)
        )
        schema: dict[str, Any] = {"type": "object", "properties": {n: self.value(depth) for n in names}}
        if names:
            schema["required"] = self.random.sample(names, self.random.randint(0, len(names)))
        if self.random.random() < 0.2:
            schema["additionalProperties"] = self.random.choice([False, {"type": "boolean"}])
        return schema

    def array(self, depth: int) -> dict[str, Any]:
        low = self.random.randint(0, 2)
        schema = {
            "type": "array",
            "items": self.value(depth),
            "minItems": low,
            "maxItems": low + self.random.randint(0, 2),
        }
        if self.random.random() < 0.2:
            schema = {"type": "array", "prefixItems": [self.value(depth), self.value(0)], "items": False}
        return schema

    def either(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self.value(depth) for _ in range(self.random.randint(1, 3))]}

    def combined(self, depth: int) -> dict[str, Any]:
        first = {"type": "object", "properties": {"a": self.value(depth)}, "required": ["a"]}
        kinds = [{"type": "object", "properties": {"k": {"const": c}}, "required": ["k"]} for c in "xyz"]
        properties = {"n": {"type": "integer"}, "m": {"type": "string", "maxLength": 3}}
        return self.random.choice(
            [
                {"allOf": [first, {"properties": {"b": self.value(0)}}]},
                {"oneOf": kinds},
                {"type": "object", "properties": properties, "anyOf": [{"required": ["n"]}, {"required": ["m"]}]},
                {"type": "object", "patternProperties": {"^x[a-c]{1,3}$": self.value(depth)}, "maxProperties": 3},
                {"type": "object", "additionalProperties": self.value(depth), "minProperties": 1, "maxProperties": 2},
            ]
        )

    def reference(self, depth: int) -> dict[str, Any]:
        name = f"d{len(self.definitions)}"
        self.definitions[name] = {}  # its place is taken before what it contains takes others
        self.definitions[name] = self.random.choice(
            [
                self.value(depth),
                {"anyOf": [self.value(0), {"type": "array", "items": {"$ref": f"#/$defs/{name}"}, "maxItems": 2}]},
            ]
        )
        return {"$ref": f"#/$defs/{name}"}


@pytest.fixture
def schema_maker() -> type[SchemaMaker]:
    return SchemaMaker
