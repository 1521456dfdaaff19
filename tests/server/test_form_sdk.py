"""Structured output and tools by OpenAI's own client, with pydantic models."""

import enum
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import httpx
import openai
import pydantic
import pytest

Short = Annotated[str, pydantic.Field(max_length=8)]
MESSAGES: list[Any] = [{"role": "user", "content": "A room for two nights."}]


class Mood(enum.Enum):
    GLAD = "glad"
    CROSS = "cross"


class Guest(pydantic.BaseModel):
    name: Short
    nights: Annotated[int, pydantic.Field(ge=1, le=30)]


class Scene(pydantic.BaseModel):
    mood: Mood
    guests: Annotated[list[Guest], pydantic.Field(max_length=2)]
    price: Annotated[float, pydantic.Field(ge=0, le=9)] | None
    kind: Literal["inn", "gate"]


class RentRoom(pydantic.BaseModel):
    """Rent a room."""

    guest: Guest
    wants_stew: bool


@pytest.fixture
async def sdk(tiny: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url="http://test/v1", api_key="-", max_retries=0, http_client=tiny) as client:
        yield client


async def test_parse(sdk: openai.AsyncOpenAI) -> None:
    for seed in range(3):
        answer = await sdk.chat.completions.parse(
            model="harrow", messages=MESSAGES, response_format=Scene, seed=seed, temperature=1.2
        )
        assert isinstance(answer.choices[0].message.parsed, Scene)
        assert answer.choices[0].finish_reason == "stop"


async def test_a_parsed_stream(sdk: openai.AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": "harrow", "messages": MESSAGES, "seed": 3, "response_format": Scene}
    whole = await sdk.chat.completions.parse(**fields)
    async with sdk.chat.completions.stream(**fields) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert len(deltas) > 20
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed


async def test_calls_as_they_stream(sdk: openai.AsyncOpenAI) -> None:
    fields: dict[str, Any] = {
        "model": "harrow",
        "messages": MESSAGES,
        "seed": 4,
        "tools": [openai.pydantic_function_tool(RentRoom)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    whole = await sdk.chat.completions.parse(**fields)
    async with sdk.chat.completions.stream(**fields) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    for answer in (whole, final):
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None
    (call,), (same,) = whole.choices[0].message.tool_calls or (), final.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, RentRoom)
    assert (call.function.name, call.function.arguments) == (same.function.name, same.function.arguments)
    assert call.function.parsed_arguments == same.function.parsed_arguments
    deltas = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert "".join(deltas) == call.function.arguments
    assert len(deltas) > 8
    assert [e.name for e in events if e.type == "tool_calls.function.arguments.done"] == ["RentRoom"]


async def test_a_named_function_and_the_next_turn(sdk: openai.AsyncOpenAI) -> None:
    tools: list[Any] = [openai.pydantic_function_tool(model) for model in (Scene, RentRoom)]
    answer = await sdk.chat.completions.parse(
        model="harrow",
        messages=MESSAGES,
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "RentRoom"}},
    )
    assert answer.choices[0].finish_reason == "stop"  # as at OpenAI
    (call,) = answer.choices[0].message.tool_calls or ()
    history = [
        *MESSAGES,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "room 3"},
    ]
    following = await sdk.chat.completions.create(model="harrow", messages=history, tools=tools, max_tokens=4)
    assert following.usage is not None and answer.usage is not None
    assert following.usage.prompt_tokens > answer.usage.prompt_tokens


async def test_a_limit_cuts_it_short(sdk: openai.AsyncOpenAI) -> None:
    tools: list[Any] = [openai.pydantic_function_tool(RentRoom)]
    for form in ({"response_format": Scene}, {"tools": tools, "tool_choice": "required"}):
        for limit in (1, 30):
            fields: dict[str, Any] = {"model": "harrow", "messages": MESSAGES, "max_tokens": limit, **form}
            with pytest.raises(openai.LengthFinishReasonError):
                await sdk.chat.completions.parse(**fields)
            async with sdk.chat.completions.stream(**fields) as stream:
                with pytest.raises(openai.LengthFinishReasonError):
                    await stream.until_done()


@pytest.mark.parametrize("place", ["", "nvext"])
@pytest.mark.parametrize(
    ("asked", "is_right"),
    [
        ({"guided_json": Guest.model_json_schema()}, Guest.model_validate_json),
        ({"guided_json": json.dumps(Guest.model_json_schema())}, Guest.model_validate_json),
        ({"guided_choice": [" yes", "<tool>", "no\n"]}, lambda text: text in (" yes", "<tool>", "no\n")),
        ({"guided_regex": "[ab]{3,5}-[0-9]"}, lambda text: set(text[:-2]) <= {*"ab"}),
        ({"guided_grammar": 'root ::= "go " ("up" | "down")'}, lambda text: text in ("go up", "go down")),
        ({"guided_grammar": 'start: "go " ("up" | "down")'}, lambda text: text in ("go up", "go down")),
    ],
)
async def test_nims_fields(sdk: openai.AsyncOpenAI, place: str, asked: dict[str, Any], is_right: Any) -> None:
    answer = await sdk.chat.completions.create(
        model="harrow", messages=MESSAGES, temperature=1.5, extra_body={place: asked} if place else asked
    )
    assert answer.choices[0].finish_reason == "stop"
    assert is_right(answer.choices[0].message.content)


async def test_any_object(sdk: openai.AsyncOpenAI) -> None:
    for seed in range(3):
        answer = await sdk.chat.completions.create(
            model="harrow",
            messages=MESSAGES,
            response_format={"type": "json_object"},
            seed=seed,
            max_tokens=200,
            logit_bias={"137": 6},  # of }: random texts go on and on
        )
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


async def test_a_schema_beside_any_object(sdk: openai.AsyncOpenAI) -> None:
    """As llama.cpp and others take it."""
    form = {"type": "json_object", "schema": Guest.model_json_schema()}
    answer = await sdk.chat.completions.create(
        model="harrow", messages=MESSAGES, seed=5, extra_body={"response_format": form}
    )
    Guest.model_validate_json(answer.choices[0].message.content or "")


async def test_json_of_no_schema(sdk: openai.AsyncOpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "any", "strict": True}}
    answer = await sdk.chat.completions.create(
        model="harrow", messages=MESSAGES, response_format=form, stop=["e", "1"], seed=2, max_tokens=200
    )
    if answer.choices[0].finish_reason == "stop":
        json.loads(answer.choices[0].message.content or "")
