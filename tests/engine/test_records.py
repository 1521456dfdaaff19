"""What goes to another process comes out of JSON as it was."""

import dataclasses
import json

import numpy as np

from understudy.engine import EngineFacts, GenerationRequest, KvLayout, KvPages, MemoryFigures, SamplingParams
from understudy.engine.logprobs import TokenLogprob
from understudy.engine.records import (
    facts_from_json,
    kv_from_json,
    kv_to_json,
    logprobs_from_json,
    logprobs_to_json,
    request_from_json,
    request_to_json,
)

REQUEST = GenerationRequest(
    prompt_ids=(5, 6, 7),
    sampling=SamplingParams(
        temperature=0.3,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.2,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        dry_multiplier=0.8,
        dry_base=2.0,
        dry_allowed_length=3,
        dry_breakers=frozenset({9, 1}),
        dry_skip_tokens=2,
        logit_bias={7: -100.0, 3: 0.5},
        seed=2**63 + 1,
    ),
    max_tokens=9,
    min_tokens=2,
    stop=("\n", "Ä"),
    stop_token_ids=frozenset({3}),
    barred_token_ids=frozenset({4, 5}),
    visible_specials={11: "<toolcall>"},
    priority=2,
    deadline_s=1.5,
    owner="minnow",
    top_logprobs=3,
    reader_interval_s=0.025,
)


def test_a_request_stays_the_same() -> None:
    assert request_from_json(json.loads(json.dumps(request_to_json(REQUEST))), None) == REQUEST


def test_no_field_of_that_request_is_left_at_its_default() -> None:
    """So that a new one is thought of here, too."""
    plain = GenerationRequest(prompt_ids=(1,))
    same = {name for name, value in vars(plain).items() if getattr(REQUEST, name) == value}
    assert same == {"constraint", "is_warm_up"}  # the one goes beside it, the other allows no answer
    drawn = vars(SamplingParams()).items()
    assert not [name for name, value in drawn if getattr(REQUEST.sampling, name) == value]


def test_how_likely_tokens_were_stays_the_same() -> None:
    found = (TokenLogprob(3, -0.1, ((3, -0.1), (4, float("-inf")))), TokenLogprob(5, 0.0))
    assert logprobs_from_json(json.loads(json.dumps(logprobs_to_json(found)))) == found


def test_facts_stay_the_same() -> None:
    memory = MemoryFigures(weight_bytes=1, mapped_bytes=2, cache_bytes_per_token=3)
    layout = KvLayout(format="cpu-8", page_tokens=32, page_bytes=4096, value_bytes=1)
    for facts in (EngineFacts(backend="cpu", memory=memory, kv=kv) for kv in (layout, None)):
        assert facts_from_json(json.loads(json.dumps(dataclasses.asdict(facts)))) == facts


def test_pages_stay_the_same() -> None:
    pages = np.arange(24, dtype=np.uint8).reshape(2, 12)
    kept = KvPages(token_ids=(1, 2, 3), start=1, pages=pages, kv_format="x", value_bytes=2, page_tokens=1)
    back = kv_from_json(json.loads(json.dumps(kv_to_json(kept))), pages.tobytes())
    assert np.array_equal(back.pages, pages)
    assert (back.token_ids, back.start, back.kv_format, back.value_bytes, back.page_tokens) == ((1, 2, 3), 1, "x", 2, 1)
