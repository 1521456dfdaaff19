"""A grammar's hold on a sequence, with a grammar of the tests' own: one of some texts, perhaps after free text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from understudy.engine import SamplingParams
from understudy.engine.constraint import TokenGate
from understudy.engine.sampling import Sampler
from understudy.errors import EngineError, RequestError
from understudy.kernels.drawing import allowed_places, allowed_words
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_model

if TYPE_CHECKING:
    from conftest import Lab

VOCAB = 268
BYTES = 12  # id of byte 0
WORDS = ("the red gate", "the red door is open", "they left")


class OneOf:
    """One of some texts; sleeps until it sees `wakes_at`, where that is given."""

    def __init__(self, texts: Sequence[str], *, wakes_at: int | None = None, is_forcing: bool = True) -> None:
        self.texts = [tuple(BYTES + b for b in t.encode()) for t in texts]
        self.said: tuple[int, ...] = ()
        self.wakes_at, self.is_forcing = wakes_at, is_forcing

    @property
    def is_active(self) -> bool:
        return self.wakes_at is None

    @property
    def may_end(self) -> bool:
        return not self.is_active or self.said in self.texts

    @property
    def is_finished(self) -> bool:
        return self.is_active and not self.next_ids()

    def next_ids(self) -> set[int]:
        size = len(self.said)
        return {t[size] for t in self.texts if len(t) > size and t[:size] == self.said}

    def mask(self) -> Any:
        if not self.is_active:
            return None
        return allowed_words(np.isin(np.arange(VOCAB), list(self.next_ids())))

    def forced(self) -> tuple[int, ...]:
        ahead = OneOf([])
        ahead.texts, ahead.said, run = self.texts, self.said, []
        while self.is_forcing and self.is_active and not ahead.may_end and len(ahead.next_ids()) == 1:
            run += [*ahead.next_ids()]
            ahead.said += (run[-1],)
        return tuple(run)

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        ahead = OneOf([])
        ahead.texts, ahead.said = self.texts, self.said
        for number, token_id in enumerate(token_ids):
            if token_id not in ahead.next_ids():
                return number
            ahead.said += (token_id,)
        return len(token_ids)

    def accept(self, token_id: int) -> None:
        if not self.is_active:
            self.wakes_at = None if token_id == self.wakes_at else self.wakes_at
            return
        assert token_id in self.next_ids(), "a forbidden token was taken"
        self.said += (token_id,)


def constrained(lab: "Lab", *, seed: int = 0, prompt: str = "x", **fields: Any) -> Any:
    sampling = fields.pop("sampling", SamplingParams(temperature=2, seed=seed))
    return lab.request(prompt, sampling=sampling, **{"constraint": lambda: OneOf(WORDS), **fields})


def tokens(engine: Any, request: Any) -> list[int]:
    return [i for chunk in engine.submit(request) for i in chunk.token_ids]


def test_only_what_the_grammar_allows(lab: "Lab") -> None:
    engine = lab.real()
    said = set()
    for seed in range(30):
        generation = engine.submit(constrained(lab, seed=seed))
        said.add(generation.text())
        assert generation.finish_reason == "stop"
    assert said == set(WORDS)


def test_forced_tokens_are_those_that_would_be_drawn(lab: "Lab") -> None:
    engine = lab.real()
    for seed in range(10):
        drawn = constrained(lab, seed=seed, constraint=lambda: OneOf(WORDS, is_forcing=False))
        assert tokens(engine, constrained(lab, seed=seed)) == tokens(engine, drawn)


def test_forced_tokens_take_one_step(lab: "Lab") -> None:
    engine = lab.scripted(lambda ids: lab.byte(ord("r")))
    generation = engine.submit(constrained(lab, constraint=lambda: OneOf(["the red gate", "the old gate is shut"])))
    chunks = list(generation)
    assert [c.text for c in chunks] == ["the ", "r", "ed gate"]
    assert generation.usage.completion_tokens == sum(len(c.token_ids) for c in chunks) == len("the red gate")
    assert lab.backends[0].steps == [[1 + len("the ")]]
    assert engine.stats().generated_tokens == len("the red gate")


def test_alone_and_in_a_batch(lab: "Lab") -> None:
    requests = [constrained(lab, seed=seed, prompt="x" * (1 + seed)) for seed in range(6)]
    requests.append(lab.request("free", max_tokens=20, sampling=SamplingParams(seed=1)))
    alone = [tokens(lab.real(), r) for r in requests]
    engine = lab.real(prefill_tokens=3)
    generations = [engine.submit(r) for r in requests]
    assert [[i for c in g for i in c.token_ids] for g in generations] == alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_nothing(lab: "Lab", temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    texts = ["tick tock tick tock tick " + end for end in ("tock tick", "boom", "tock tock")]
    texts += ["tack" + t[4:] for t in texts]
    said, num_read = [], []
    forward = ReferenceBackend.forward

    def counted(self: Any, batch: Any) -> Any:
        num_read[-1] += len(batch)
        return forward(self, batch)

    monkeypatch.setattr(ReferenceBackend, "forward", counted)
    for draft_tokens in (0, 4):
        monkeypatch.setattr(ReferenceBackend, "draft_tokens", draft_tokens)
        num_read.append(0)
        engine = lab.open(ReferenceBackend(model.config, model.weights))
        said.append(
            [
                tokens(
                    engine,
                    lab.request(
                        "tick tock tick tock",
                        sampling=SamplingParams(temperature=temperature, seed=seed, frequency_penalty=0.2),
                        constraint=lambda: OneOf(texts, is_forcing=False),
                    ),
                )
                for seed in range(8)
            ]
        )
    assert said[0] == said[1]
    assert num_read[1] < num_read[0]  # some drafts were right


def test_no_penalty_or_bias_brings_a_forbidden_token_back(lab: "Lab") -> None:
    engine = lab.real()
    banned = {lab.byte(b): -100.0 for b in b"they rdgan"}
    sampling = SamplingParams(logit_bias={**banned, lab.byte(ord("z")): 100.0}, frequency_penalty=-2, seed=1)
    assert engine.submit(constrained(lab, sampling=sampling)).text() in WORDS


def test_sampling_among_what_is_allowed() -> None:
    logits = np.array([5, 4, 3, 2, 1], np.float32)

    def only(*ids: int) -> np.ndarray:
        return allowed_words(np.isin(np.arange(5), ids))

    assert Sampler(SamplingParams(temperature=0)).sample(logits, only(2, 4)) == 2
    drawn = {Sampler(SamplingParams(temperature=2, seed=s)).sample(logits, only(1, 3)) for s in range(30)}
    assert drawn == {1, 3}
    alone, after = Sampler(SamplingParams(seed=3)), Sampler(SamplingParams(seed=3))
    after.sample(logits, only(4))  # what is forced takes no random number
    assert alone.sample(logits) == after.sample(logits)


def test_the_end_token_only_where_the_grammar_may_end(lab: "Lab") -> None:
    engine = lab.scripted(lambda ids: 3)  # the model always wants to end
    generation = engine.submit(constrained(lab, constraint=lambda: OneOf(["no", "not now"])))
    assert generation.text() == "no"
    assert generation.usage.completion_tokens == 3
    longer = engine.submit(constrained(lab, constraint=lambda: OneOf(["no", "not now"]), stop_token_ids=frozenset()))
    assert longer.text() == "not now"


def test_max_tokens_cuts(lab: "Lab") -> None:
    engine = lab.real()
    for limit in (1, 2, 4, 6):
        generation = engine.submit(
            constrained(lab, constraint=lambda: OneOf(["the door", "the dog"]), max_tokens=limit)
        )
        assert generation.text() == "the door"[:limit]
        assert (generation.finish_reason, generation.usage.completion_tokens) == ("length", limit)
    whole = engine.submit(constrained(lab, constraint=lambda: OneOf(["the door"]), max_tokens=8))
    assert (whole.text(), whole.finish_reason) == ("the door", "stop")


def test_stop_strings_hold_in_free_text_only(lab: "Lab") -> None:
    call = lab.tokenizer.special_id("<toolcall>")
    assert call is not None
    script = [*lab.ids("He left th"), call, *lab.ids("zzzz")]
    engine = lab.scripted(lambda ids: script[(len(ids) - 1) % len(script)])
    request = constrained(lab, constraint=lambda: OneOf(["the end"], wakes_at=call), stop=("the", "left t!"))
    assert engine.submit(request).text() == "He left ththe end"
    free = constrained(lab, constraint=lambda: OneOf(["the end"], wakes_at=call), stop=("left",))
    assert engine.submit(free).text() == "He "
    held = constrained(lab, constraint=lambda: OneOf(["the end", "the ends"]), stop=("end",), max_tokens=9)
    assert engine.submit(held).text() in ("the end", "the ends")


class Broken(OneOf):
    def __init__(self, where: str) -> None:
        super().__init__(["abc", "abe", "b"])
        self.where = where

    def fail(self, where: str) -> None:
        if self.where == where and self.said:
            raise ValueError("lost its way")

    def mask(self) -> Any:
        self.fail("mask")
        return np.zeros(VOCAB // 32, np.uint32) if self.where == "empty" and self.said else super().mask()

    def forced(self) -> tuple[int, ...]:
        self.fail("forced")
        return ()

    def accept(self, token_id: int) -> None:
        self.fail("accept")
        super().accept(token_id)


@pytest.mark.parametrize("where", ["mask", "forced", "accept", "empty"])
def test_a_broken_constraint_ends_its_own_request(lab: "Lab", where: str) -> None:
    engine = lab.scripted(lambda ids: lab.byte(ord("a")))
    other = engine.submit(lab.request("x", max_tokens=9))
    broken = engine.submit(constrained(lab, constraint=lambda: Broken(where)))
    with pytest.raises(EngineError, match=r"lost its way|leaves no token"):
        broken.text()
    assert other.text() == "a" * 9
    assert engine.submit(constrained(lab)).text() in WORDS


def test_a_constraint_that_cannot_be_made_is_refused_at_once(lab: "Lab") -> None:
    def refuse() -> OneOf:
        raise RequestError("too large", param="tools")

    with pytest.raises(RequestError, match="too large"):
        lab.real().submit(constrained(lab, constraint=refuse))


def test_a_mask_may_be_shorter_or_longer_than_the_models_rows() -> None:
    gate = TokenGate(OneOf(["ab"]), stop_token_ids=frozenset({3, 999}))
    allowed = gate.allowed(BYTES + ord("a") + 1)
    assert allowed is not None
    assert allowed_places(allowed, BYTES + ord("a") + 1).tolist() == [BYTES + ord("a")]
    wide = gate.allowed(2000)
    assert wide is not None
    assert allowed_places(wide, 2000).tolist() == [BYTES + ord("a")]
    with pytest.raises(EngineError, match="leaves no token"):
        Sampler(SamplingParams()).sample(np.zeros(20, np.float32), gate.allowed(20))
