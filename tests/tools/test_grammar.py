"""What comes out of models under a grammar, held against independent readers: json, jsonschema, re."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from understudy.errors import RequestError
from understudy.prompt.messages import ToolCall
from understudy.prompt.parse import parse_answer
from understudy.prompt.template import call_line
from understudy.testing import SchemaMaker
from understudy.tools.grammar import (
    choice_grammar,
    gbnf_grammar,
    json_object_grammar,
    json_schema_grammar,
    lark_grammar,
    regex_grammar,
    tool_grammar,
)

if TYPE_CHECKING:
    from conftest import Writer

A, B = ({"type": "function", "function": {"name": name}} for name in "ab")
VALUES = re.compile(r'"(?:[^"\\]|\\.)*"|[-+.\deE]*\d')  # strings and numbers
SPACED = re.compile(r"(?:[][{}]|[:,] |true|false|null)*")
ROLL = {
    "type": "function",
    "function": {
        "name": "roll",
        "parameters": {
            "type": "object",
            "properties": {"sides": {"type": "integer", "enum": [6, 20]}, "why": {"type": "string", "maxLength": 8}},
            "required": ["sides"],
        },
    },
}
REST = {"name": "rest", "parameters": {"type": "object", "properties": {"hours": {"type": "number"}}}}
TOOLS: list[dict[str, Any]] = [ROLL, {"type": "function", "function": {"name": "roll_all"}}, REST]


def schemas_of(tools: list[dict[str, Any]]) -> dict[str, Any]:
    functions = [t.get("function", t) for t in tools]
    return {f["name"]: f.get("parameters", {"maxProperties": 0}) for f in functions}


def is_json_dumps_style(text: str) -> bool:
    """Whether it has white space where json.dumps writes it and nowhere else; JSON it is already."""
    return SPACED.fullmatch(VALUES.sub("", text)) is not None


def check_calls(text: str, tools: list[dict[str, Any]]) -> int:
    """Every call of an answer is spelled as the template spells it, and right; how many there are."""
    answer = parse_answer(text)
    begins = text.find("<toolcall>")
    lines = text[begins:].rstrip("\n").split("\n") if begins >= 0 else []
    for line, call in zip(lines, answer.tool_calls, strict=True):
        beginning, end = f'<toolcall> {{"name": "{call.name}", "arguments": {{', " </toolcall>"
        assert line.startswith(beginning)
        assert line.endswith(end)
        assert is_json_dumps_style(line.removeprefix("<toolcall> ").removesuffix(end))
    for call in answer.tool_calls:
        jsonschema.validate(json.loads(call.arguments), schemas_of(tools)[call.name])
    return len(answer.tool_calls)


def finished(writer: "Writer", grammar: Any, seeds: range, **fields: Any) -> Iterator[str]:
    """Texts of the answers that were not cut, for each seed at another temperature."""
    for seed in seeds:
        request = writer.request(grammar, seed=seed, temperature=(0.0, 0.5, 1.0, 2.0)[seed % 4], **fields)
        generation = writer.engine.submit(request)
        text = generation.text()
        assert generation.finish_reason in ("stop", "length")
        assert generation.usage.completion_tokens <= request.max_tokens
        if generation.finish_reason == "stop":
            yield text


def check_schemas(writer: "Writer", makers: Iterator[SchemaMaker], max_tokens: int) -> int:
    num_finished = 0
    for number, maker in enumerate(makers):
        schema = maker.schema()
        for text in finished(writer, json_schema_grammar(schema), range(number, number + 1), max_tokens=max_tokens):
            value = json.loads(text)
            jsonschema.Draft202012Validator(schema).validate(value)
            assert is_json_dumps_style(text)
            num_finished += 1
    return num_finished


def test_json_of_a_random_model_satisfies_its_schema(tiny: "Writer") -> None:
    num_finished = check_schemas(tiny, (SchemaMaker(seed) for seed in range(30)), 200)
    assert num_finished > 20


def test_json_of_the_embedded_model_satisfies_its_schema(harrow: "Writer") -> None:
    num_finished = check_schemas(harrow, (SchemaMaker(seed) for seed in range(500, 512)), 90)
    assert num_finished > 6


def test_any_object(tiny: "Writer") -> None:
    """Random texts end where ends are likely; a key ends all the same."""
    ends = {tiny.tokenizer.encode(c)[0]: 5.0 for c in '"}]'}
    values, grammar = [], json_object_grammar()
    for seed in range(6):
        biased = type(tiny.request(grammar).sampling)(seed=seed, logit_bias=ends)
        generation = tiny.engine.submit(tiny.request(grammar, sampling=biased, max_tokens=120))
        text = generation.text()
        values += [json.loads(text)] if generation.finish_reason == "stop" else []
    assert values
    assert all(isinstance(v, dict) for v in values)
    letters = {tiny.tokenizer.encode(c)[0]: 100.0 for c in "abc"}
    biased = type(tiny.request(grammar).sampling)(seed=1, logit_bias=letters)
    text = tiny.engine.submit(tiny.request(grammar, sampling=biased, max_tokens=60)).text()
    assert re.match('{"[abc]{40}": ', text)


def test_digits_and_white_space_have_an_end(tiny: "Writer") -> None:
    digits = {tiny.tokenizer.encode(c)[0]: 100.0 for c in "0123456789.-+eE \t\n"}
    grammar = json_schema_grammar({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2})
    sampling = tiny.request(grammar).sampling
    for seed in range(8):
        biased = type(sampling)(temperature=1.5, seed=seed, logit_bias=digits)
        generation = tiny.engine.submit(tiny.request(grammar, sampling=biased))
        assert all(abs(v) < 2**53 for v in json.loads(generation.text()))
        assert generation.usage.completion_tokens <= 2 + 2 * (1 + 16 + 1 + 6) + 2


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "rest"}}])
@pytest.mark.parametrize("name", ["tiny", "harrow"])
def test_calls(request: pytest.FixtureRequest, name: str, choice: Any) -> None:
    writer = request.getfixturevalue(name)
    call_id = writer.tokenizer.special_id("<toolcall>")
    num_calls = 0
    for seed in range(4):
        maker = SchemaMaker(seed + 900)
        tools = [*TOOLS, {"type": "function", "function": {"name": "made", "parameters": maker.arguments()}}]
        grammar = tool_grammar(tools, writer.tokenizer, choice=choice, is_parallel=bool(seed % 2))
        sampling = writer.request(grammar).sampling
        biased = type(sampling)(temperature=seed / 3, seed=seed, logit_bias={call_id: 20.0} if choice == "auto" else {})
        generation = writer.engine.submit(writer.request(grammar, sampling=biased, stop=("arguments",)))
        text = generation.text()
        if generation.finish_reason == "stop":
            found = check_calls(text, tools)
            num_calls += found
            assert found <= (16 if seed % 2 else 1)
            if choice != "auto":
                assert text.startswith("<toolcall>")
            if isinstance(choice, dict):
                assert [c.name for c in parse_answer(text).tool_calls] == ["rest"]
    assert num_calls > 0


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_some_of_the_functions(tiny: "Writer", mode: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [B, B]}}
    grammar = tool_grammar([A, B, ROLL], tiny.tokenizer, choice=choice)
    bias = {tiny.tokenizer.specials["<toolcall>"]: 100.0} if mode == "auto" else {}
    sampling = type(tiny.request(grammar).sampling)(seed=1, logit_bias=bias)
    generation = tiny.engine.submit(tiny.request(grammar, sampling=sampling, max_tokens=99))
    assert {call.name for call in parse_answer(generation.text()).tool_calls} == {"b"}


def test_either_calls_or_json(tiny: "Writer") -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["glad", "<toolcall>"]}}, "required": ["mood"]}
    grammar = tool_grammar([ROLL], tiny.tokenizer, is_parallel=False, answer_schema=schema)
    for bias, is_call in ((100.0, True), (-100.0, False)):
        by_id = {tiny.tokenizer.specials["<toolcall>"]: bias}
        sampling = type(tiny.request(grammar).sampling)(seed=1, logit_bias=by_id)
        text = tiny.engine.submit(tiny.request(grammar, sampling=sampling)).text()
        if is_call:
            assert check_calls(text, [ROLL]) == 1
        else:
            jsonschema.validate(json.loads(text), schema)


def test_a_call_is_spelled_as_the_template_spells_it(harrow: "Writer") -> None:
    grammar = tool_grammar([ROLL], harrow.tokenizer, choice={"function": {"name": "roll"}})
    generation = harrow.engine.submit(harrow.request(grammar))
    token_ids = [i for chunk in generation for i in chunk.token_ids]
    spoken = f" {call_line(ToolCall(name='roll', arguments=json.dumps({'sides': 6})))} "
    opened = harrow.tokenizer.special_id("<toolcall>")
    expected = [opened, *harrow.tokenizer.encode(spoken)]
    size = expected.index(harrow.tokenizer.encode(" 6")[0])
    assert size > 10
    assert token_ids[:size] == expected[:size]


def test_no_call_where_none_is_wanted(tiny: "Writer") -> None:
    call_id = tiny.tokenizer.special_id("<toolcall>")
    assert call_id is not None
    grammar = tool_grammar(TOOLS, tiny.tokenizer, choice="none")
    sampling = type(tiny.request(grammar).sampling)(seed=1, logit_bias={call_id: 100.0})
    generation = tiny.engine.submit(tiny.request(grammar, sampling=sampling, max_tokens=40, stop_token_ids=frozenset()))
    text = generation.text()
    assert "<toolcall>" not in text
    assert generation.usage.completion_tokens == 40


@pytest.mark.parametrize(
    ("grammar", "right"),
    [
        (choice_grammar(["stay", "stay here", 'a "b"\n\\', "żółw 🐢"]), r'stay( here)?|a "b"\n\\|żółw 🐢'),
        (regex_grammar(r"[a-f]{2,4}(-[0-9]{2}/\d)?"), r"[a-f]{2,4}(-[0-9]{2}/\d)?"),
        (lark_grammar('start: word ("," word){1,2}\nword: /[xyz]{1,3}/'), r"[xyz]{1,3}(,[xyz]{1,3}){1,2}"),
        (
            gbnf_grammar(r'root ::= "\u00e9\u0022" [\u3042-\u3093]{1,3} "\\u00e9" "\U0001F422"'),
            r'é"[あ-ん]{1,3}\\u00e9🐢',
        ),
        (gbnf_grammar('root ::= "go " dir\ndir ::= "up" | "down" | [0-9]+ "m"'), r"go (up|down|\d+m)"),
    ],
)
def test_other_grammars(tiny: "Writer", grammar: Any, right: str) -> None:
    texts = list(finished(tiny, grammar, range(12)))
    assert len(texts) > 8
    assert all(re.fullmatch(right, text) for text in texts)
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (choice_grammar, [], "1 to 1024 texts, got 0"),
        (choice_grammar, ["a", 3], "texts that are not empty"),
        (regex_grammar, "a" * 2049, "1 to 2048 characters"),
        (regex_grammar, None, "must be a text"),
        (lark_grammar, "", "must be a text"),
        (gbnf_grammar, "root = a", "no GBNF grammar"),
        (gbnf_grammar, "root ::= " + "(" * 20_000, "no GBNF grammar"),
    ],
)
def test_malformed_texts_are_refused(make: Any, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make(value)


@pytest.mark.parametrize(
    ("tools", "choice", "param", "message"),
    [
        ([{"name": "<toolcall>"}], "auto", "tools[0].function.name", "letters, digits"),
        ([{"function": {}}], "auto", "tools[0].function.name", "needs a name"),
        ([{"name": "a"}, {"name": "a"}], "auto", "tools[1].function.name", "two functions named 'a'"),
        ([], "required", "tools", "1 to 128 functions"),
        ([{"name": "a", "parameters": {"type": "array"}}], "auto", "tools[0].function.parameters", "an object, not"),
        ([{"name": "a", "parameters": {"not": {}}}], "auto", "tools[0].function.parameters", "'not'"),
        ([{"name": "a"}], {"function": {"name": "b"}}, "tool_choice", "no tool is named 'b'"),
        ([{"name": "a"}], "any", "tool_choice", "tool_choice must be"),
        ([{"name": "a"}], {"type": "function"}, "tool_choice", "tool_choice must be"),
        ([{"name": "a"}], {"allowed_tools": {"mode": "auto", "tools": []}}, "tool_choice", "tool_choice must be"),
        ([{"name": "a"}], {"allowed_tools": {"mode": "any", "tools": [A]}}, "tool_choice", "tool_choice must be"),
        ([{"name": "a"}], {"allowed_tools": {"mode": "auto", "tools": [B]}}, "tool_choice", "no tool is named 'b'"),
        ([{"name": "a", "description": float("nan")}], "auto", "tools", "no plain JSON"),
        ([{"name": "a", "description": "x" * (1 << 19)}], "auto", "tools", "524288 bytes"),
    ],
)
def test_malformed_tools_are_refused(tiny: "Writer", tools: Any, choice: Any, param: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        tool_grammar(tools, tiny.tokenizer, choice=choice)
    assert caught.value.param == param
