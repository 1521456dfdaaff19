import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from understudy.errors import EngineError, RequestError
from understudy.kernels.drawing import allowed_places
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ReferenceBackend
from understudy.testing import SchemaMaker, sentencepiece_tokenizer
from understudy.tools.grammar import json_schema_grammar, lark_grammar, regex_grammar, tool_grammar
from understudy.tools.guidance import GuidanceConstraint, GuidanceVocabulary

if TYPE_CHECKING:
    from conftest import Writer


class Unforced(GuidanceConstraint):
    """Draws what it could take."""

    def forced(self) -> tuple[int, ...]:
        return ()


def tokens(engine: Any, request: Any) -> list[int]:
    return [i for chunk in engine.submit(request) for i in chunk.token_ids]


def test_forced_tokens_are_those_that_a_byte_model_would_draw(tiny: "Writer") -> None:
    for seed in range(12):
        grammar = json_schema_grammar(SchemaMaker(seed).schema(2))
        make = tiny.vocabulary.compile(grammar)

        def unforced(make: Any = make) -> GuidanceConstraint:
            constraint = make()
            constraint.__class__ = Unforced
            return constraint

        fields: dict[str, Any] = {"seed": seed, "max_tokens": 120}
        fast = tokens(tiny.engine, tiny.request(grammar, **fields))
        assert fast == tokens(tiny.engine, tiny.request(grammar, constraint=unforced, **fields))


@pytest.mark.parametrize("name", ["tiny", "harrow"])
def test_the_same_tokens_alone_in_a_batch_in_chunks_and_with_drafts(
    request: pytest.FixtureRequest, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = request.getfixturevalue(name)
    tool = {"name": "note", "parameters": SchemaMaker(7).arguments()}
    grammars = [json_schema_grammar(SchemaMaker(seed).schema(2)) for seed in range(3)]
    grammars.append(tool_grammar([tool, {"name": "wait"}], writer.tokenizer, choice="required"))
    prompt = 'Say {"name": "note", "arguments": {"name": "wait"}} again'
    requests = [
        writer.request(g, prompt=prompt + "!" * n, seed=n, temperature=n % 3 / 2, max_tokens=40)
        for n, g in enumerate(grammars)
    ]
    kind = CpuBackend if writer.is_native else ReferenceBackend
    monkeypatch.setattr(kind, "draft_tokens", 0)
    alone = [tokens(writer.engine, r) for r in requests]
    batch = writer.open(prefill_tokens=5)
    generations = [batch.submit(r) for r in requests]
    assert [[i for c in g for i in c.token_ids] for g in generations] == alone
    monkeypatch.setattr(kind, "draft_tokens", 4)
    assert [tokens(writer.open(), r) for r in requests] == alone


def test_forced_text_is_spelled_as_the_tokenizer_spells_it(harrow: "Writer") -> None:
    grammar = lark_grammar('start: "The gate by the river is " ("open" | "shut") "."')
    generation = harrow.engine.submit(harrow.request(grammar, seed=1))
    token_ids = [i for chunk in generation for i in chunk.token_ids]
    text = harrow.tokenizer.decode(token_ids)
    assert text in ("The gate by the river is open.", "The gate by the river is shut.")
    assert token_ids[:5] == harrow.tokenizer.encode(text)[:5]


@pytest.mark.parametrize("has_lead", [False, True])
def test_sentencepiece_without_markers(has_lead: bool) -> None:
    tokenizer = sentencepiece_tokenizer(has_lead=has_lead)
    vocabulary = GuidanceVocabulary(tokenizer, vocab_size=tokenizer.vocab_size + 5, stop_token_ids=frozenset({3}))
    constraint = vocabulary.compile(tool_grammar([{"name": "go"}], tokenizer, choice="required"))()
    said: list[int] = []
    while not constraint.may_end:
        forced = constraint.forced()
        mask = constraint.mask()
        assert mask is not None
        allowed = allowed_places(mask, tokenizer.vocab_size + 5)
        assert allowed[-1] < tokenizer.vocab_size
        for token_id in forced or (int(allowed[-1]),):
            constraint.accept(token_id)
            said.append(token_id)
    assert tokenizer.decode(said) == '<toolcall> {"name": "go", "arguments": {}} </toolcall>'
    assert len(said) < len(tokenizer.decode(said))
    auto = vocabulary.compile(tool_grammar([{"name": "go"}], tokenizer))()
    for token_id in tokenizer.encode("the <toolcall"):
        assert not auto.is_active
        auto.accept(token_id)
    auto.accept(tokenizer.encode("x>")[-1])
    assert auto.is_active
    assert tokenizer.decode(auto.forced()) == ' {"name": "go", "arguments": {}} </toolcall>'


def test_errors_name_the_problem(tiny: "Writer") -> None:
    for grammar, message in (
        (regex_grammar("(a"), "unclosed group"),
        (lark_grammar("start: nothing"), 'unknown name: "nothing"'),
    ):
        with pytest.raises(RequestError, match=message) as caught:
            tiny.vocabulary.compile(grammar)
        assert caught.value.param == grammar.param
        assert len(str(caught.value)) < 400


def test_a_token_that_was_not_allowed_is_an_error(tiny: "Writer") -> None:
    constraint = tiny.vocabulary.compile(regex_grammar("[0-9]+"))()
    with pytest.raises(EngineError, match="cannot go on"):
        constraint.accept(tiny.tokenizer.encode("x")[0])
    again = tiny.vocabulary.compile(regex_grammar("[0-9]+"))()
    again.accept(tiny.tokenizer.encode("7")[0])
    assert again.may_end
    assert again.num_allowed(tiny.tokenizer.encode("12x4")) == 2
    assert again.num_allowed(tiny.tokenizer.encode("1")) == 1


def test_a_grammar_that_explodes_ends_in_bounded_time(tiny: "Writer") -> None:
    for pattern in ("(x+x+)+y", "(.*a){60}.{60}b", "((a{0,99}){0,99}){0,99}b", "^(([a-z])+.)+[A-Z]([a-z])+$"):
        schema = {"type": "array", "items": {"type": "string", "pattern": pattern}, "minItems": 2}
        generation = tiny.engine.submit(tiny.request(json_schema_grammar(schema), max_tokens=50))
        try:
            text = generation.text()
        except EngineError as error:
            assert "grammar cannot go on" in str(error)
            continue
        if generation.finish_reason == "stop":
            jsonschema.validate(json.loads(text), schema)
