"""Spans as a collector would get them; skipped where the extra `tracing` is not installed."""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from understudy.server import Tracing, create_app, is_tracing_installed

if TYPE_CHECKING:
    from conftest import Stage

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
Body = Callable[..., dict[str, Any]]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def traced(stage: "Stage", spans: InMemorySpanExporter) -> AsyncIterator[httpx.AsyncClient]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracing = Tracing(provider)
    app = create_app(stage.served, tracing=tracing)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
        yield client
    tracing.close()


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat(
    traced: httpx.AsyncClient, stage: "Stage", spans: InMemorySpanExporter, body: Body, stream: bool
) -> None:
    stage.script = "Geheimnis"
    asked = body(
        messages=[{"role": "user", "content": "Vertraulich"}],
        stream=stream,
        stop=["Verschluss"],
        user="Niemand",
        temperature=0.5,
        max_tokens=50,
        seed=7,
    )
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    assert (await traced.post("/v1/chat/completions", json=asked, headers=headers)).status_code == 200
    span = only(spans)
    assert (span.name, span.kind) == ("chat harrow", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None and f"{span.parent.span_id:016x}" == PARENT
    told = dict(span.attributes or {})
    num_input = told.pop("gen_ai.usage.input_tokens")
    assert isinstance(num_input, int) and num_input > 5
    assert str(told.pop("gen_ai.response.id")).startswith("chatcmpl-")
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "understudy.request_id": "mine",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "understudy",
        "gen_ai.request.model": "harrow",
        "gen_ai.response.model": "harrow",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.seed": 7,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.output_tokens": len("Geheimnis") + 1,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    (event,) = span.events
    assert event.name == "gen_ai.first_token"
    assert span.start_time is not None and span.end_time is not None
    assert span.start_time <= event.timestamp <= span.end_time
    waited_s = (event.timestamp - span.start_time) / 1e9
    assert dict(event.attributes or {})["gen_ai.server.time_to_first_token"] == pytest.approx(waited_s, abs=1e-3)
    for word in ("Geheimnis", "Vertraulich", "Verschluss", "Niemand"):
        assert word not in span.to_json()


async def test_the_other_routes(
    traced: httpx.AsyncClient, stage: "Stage", spans: InMemorySpanExporter, body: Body
) -> None:
    stage.script = '<toolcall>{"name": "wave", "arguments": {}}</toolcall>'
    tools = [{"type": "function", "function": {"name": "wave"}}]
    await traced.post("/v1/chat/completions", json=body(tools=tools, n=2))
    ids = [stage.tokenizer.special_id("<extra_id_1>"), *stage.tokenizer.encode("Assistant\n")]
    await traced.post("/v1/completions", json={"model": "harrow", "prompt": [ids, ids], "max_tokens": 3})
    made = await traced.post("/v1/npcs", json={"card": {"name": "Tam", "description": "You are Tam."}})
    stage.script = "Aye."
    said = await traced.post(f"/v1/npcs/{made.json()['id']}/say", json={"line": "Hi", "stream": False})
    assert said.status_code == 200, said.text
    chat, text, create, say = spans.get_finished_spans()
    assert chat.attributes is not None and text.attributes is not None and say.attributes is not None
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("tool_calls", "tool_calls")
    assert chat.attributes["gen_ai.request.choice.count"] == 2
    assert text.name == "text_completion harrow"
    assert text.attributes["gen_ai.usage.input_tokens"] == 2 * len(ids)
    assert text.attributes["gen_ai.usage.output_tokens"] == 6
    assert create.name == "POST /v1/npcs"
    assert (say.name, say.attributes["http.route"]) == ("chat harrow", "/v1/npcs/{npc_id}/say")
    assert say.attributes["gen_ai.usage.output_tokens"] == len("Aye.") + 1


async def test_what_fails(traced: httpx.AsyncClient, stage: "Stage", spans: InMemorySpanExporter, body: Body) -> None:
    assert (await traced.post("/v1/chat/completions", json=body(model="none"))).status_code == 404
    stage.failure = ValueError("Geheimnis")
    assert (await traced.post("/v1/chat/completions", json=body())).status_code == 500
    await traced.get("/v1/health/ready")
    await traced.get("/metrics")
    await traced.get("/")
    refused, failed = spans.get_finished_spans()
    assert refused.attributes is not None and failed.attributes is not None
    assert (refused.name, refused.attributes["error.type"]) == ("POST /v1/chat/completions", "404")
    assert refused.status.status_code is StatusCode.UNSET
    assert (failed.name, failed.attributes["error.type"]) == ("chat harrow", "500")
    assert failed.status.status_code is StatusCode.ERROR
    assert not failed.events and "Geheimnis" not in failed.to_json()


@pytest.mark.parametrize("sent", ["", "00-zz-zz-01", f"00-{'0' * 32}-{PARENT}-01", "x" * 5000])
async def test_a_parent_that_is_none(
    traced: httpx.AsyncClient, spans: InMemorySpanExporter, body: Body, sent: str
) -> None:
    answer = await traced.post("/v1/chat/completions", json=body(), headers={"traceparent": sent})
    assert answer.status_code == 200
    assert only(spans).parent is None


def test_it_is_installed() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    assert is_tracing_installed()
