"""Whole calls of many random schemas, through the engine, held against independent readers."""

import asyncio
import dataclasses
import json
import re
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from understudy.engine import Generation, GenerationRequest
from understudy.prompt.parse import AnswerParser
from understudy.testing import SchemaMaker
from understudy.tools.grammar import tool_grammar

if TYPE_CHECKING:
    from conftest import Writer

LIMIT_S = 240.0  # of a batch; some milliseconds a token even on a busy machine
TEMPERATURES = (0.0, 0.3, 0.7, 1.0, 1.5, 2.0)
BATCH = 20
CHECKS = jsonschema.FormatChecker(("date", "ipv4", "ipv6", "uuid", "email"))
LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
SHAPES = {
    "duration": r"P(\d+W|(?=.)(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?)",
    "hostname": rf"{LABEL}(\.{LABEL})*",
    "uri": r"[a-zA-Z][a-zA-Z0-9+.-]*:[^\s<>\"{}|\\^`]*",
}
for kind, shape in SHAPES.items():
    CHECKS.checks(kind)(lambda text, shape=shape: not isinstance(text, str) or re.fullmatch(shape, text) is not None)


@CHECKS.checks("date-time", ValueError)
def is_date_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.fromisoformat(text).tzinfo is not None


@CHECKS.checks("time", ValueError)
def is_time(text: object) -> bool:
    return not isinstance(text, str) or datetime.fromisoformat(f"2000-01-01T{text}").tzinfo is not None


def multiple_of(validator: Any, step: Any, value: Any, schema: Any) -> Any:
    """jsonschema's own divides floats: to it 0.07 is no multiple of 0.01."""
    if validator.is_type(value, "number") and Decimal(str(value)) % Decimal(str(step)):
        yield jsonschema.ValidationError(f"{value} is no multiple of {step}")


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"multipleOf": multiple_of})


@dataclasses.dataclass(frozen=True)
class Case:
    """Schemas of arguments by name; a request that must call, or may call and is drawn to."""

    schemas: dict[str, Any]
    request: GenerationRequest
    is_free: bool


@dataclasses.dataclass
class Tally:
    finished: int = 0
    cut: int = 0
    calls: int = 0


def make_case(writer: "Writer", number: int, max_tokens: int) -> Case:
    maker = SchemaMaker(number)
    tools: list[dict[str, Any]] = [{"name": f"made_{number}", "parameters": maker.arguments(number % 5)}]
    if number % 3 == 1:
        tools.append({"type": "function", "function": {"name": "rest"}})
    choices: list[Any] = ["required", {"type": "function", "function": {"name": tools[0]["name"]}}, "auto"]
    choice = choices[number // 7 % 3]
    call_id = writer.tokenizer.special_id("<toolcall>")
    choice = "required" if choice == "auto" and call_id is None else choice
    grammar = tool_grammar(tools, writer.tokenizer, choice=choice, is_parallel=number % 4 == 0)
    request = writer.request(grammar, prompt=f"Make {number}", seed=number, max_tokens=max_tokens)
    sampling = dataclasses.replace(
        request.sampling,
        temperature=TEMPERATURES[number % len(TEMPERATURES)],
        logit_bias={call_id: 20.0} if choice == "auto" and call_id is not None else {},
    )
    functions = [tool.get("function", tool) for tool in tools]
    schemas = {f["name"]: f.get("parameters", {"maxProperties": 0}) for f in functions}
    return Case(schemas, dataclasses.replace(request, sampling=sampling), choice == "auto")


async def check(case: Case, generation: Generation, tally: Tally) -> None:
    parser = AnswerParser()
    async with asyncio.timeout(LIMIT_S):
        spoken = "".join([parser.push(chunk.text) async for chunk in generation])
    spoken += parser.finish()
    calls = parser.tool_calls
    for call in calls:
        Validator(case.schemas[call.name], format_checker=CHECKS).validate(json.loads(call.arguments))
    tally.calls += len(calls)
    if generation.finish_reason == "length":
        assert generation.usage.completion_tokens == case.request.max_tokens
        tally.cut += 1
        return
    assert generation.finish_reason == "stop"
    assert generation.usage.completion_tokens <= case.request.max_tokens
    assert case.is_free or (calls and not spoken)
    tally.finished += 1


async def check_all(writer: "Writer", numbers: range, max_tokens: int) -> Tally:
    tally = Tally()
    for start in range(0, len(numbers), BATCH):
        cases = [make_case(writer, number, max_tokens) for number in numbers[start : start + BATCH]]
        generations = [writer.engine.submit(case.request) for case in cases]
        await asyncio.gather(*(check(case, g, tally) for case, g in zip(cases, generations, strict=True)))
    assert tally.finished + tally.cut == len(numbers)
    return tally


async def test_every_finished_call_is_right(tiny: "Writer", odd: list["Writer"], harrow: "Writer") -> None:
    tallies = [await check_all(w, range(9000 + 10 * n, 9010 + 10 * n), 90) for n, w in enumerate([tiny, *odd, harrow])]
    assert sum(tally.finished for tally in tallies) > 35


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
async def test_two_thousand_schemas(tiny: "Writer", odd: list["Writer"], harrow: "Writer", part: int) -> None:
    size = 334
    tally = await check_all([tiny, *odd, harrow][part], range(size * part, size * (part + 1)), 200)
    print(f"part {part}: {tally}")
    assert tally.finished > size * 0.6
