import dataclasses
import json

import numpy as np

from understudy.engine import KvLayout
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight
from understudy.npc.fingerprint import ModelFingerprint
from understudy.testing import ListCache, tiny_model


def fingerprint_of(model: object) -> ModelFingerprint:
    return ModelFingerprint.of(model, KvLayout.of(ReferenceBackend(model.config, model.weights)))  # type: ignore[attr-defined,arg-type]


def test_a_model_knows_itself_again() -> None:
    saved = json.loads(json.dumps(dataclasses.asdict(fingerprint_of(tiny_model()))))
    assert fingerprint_of(tiny_model()).difference(saved) is None
    assert fingerprint_of(tiny_model()).kv_format == "reference-f32-1"


def test_every_tensor_counts() -> None:
    model = tiny_model()
    before = fingerprint_of(model)
    for name, weight in model.weights.items():
        other = Weight.from_array(weight.dense() * np.float32(1.001))
        changed = dataclasses.replace(model, weights={**model.weights, name: other})
        assert fingerprint_of(changed).difference(dataclasses.asdict(before)) == "its weights differ", name


def test_what_differs_is_named() -> None:
    mine = fingerprint_of(tiny_model())
    for part, word in (
        ("config", "shape"),
        ("tokenizer", "tokenizer"),
        ("kv_format", "format"),
        ("weights", "weights"),
    ):
        assert word in str(mine.difference({**dataclasses.asdict(mine), part: "x"}))
    for nothing in (None, [], {}):
        assert mine.difference(nothing)


def test_a_backend_without_pages() -> None:
    class Scripted:
        name = "scripted"

        def new_cache(self) -> ListCache:
            return ListCache()

    assert ModelFingerprint.of(tiny_model(), KvLayout.of(Scripted())).kv_format == ""  # type: ignore[arg-type]
