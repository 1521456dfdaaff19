"""OpenTelemetry: one span a request, under the GenAI conventions' names, without a word of what was said.

A span is made when its request has ended, with the times that it had. OpenTelemetry is the extra `tracing`: it is
imported when tracing is opened, and needed by nothing else.
"""

import importlib.util
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from starlette.datastructures import Headers

from understudy import __version__
from understudy.server.answered import Answered, answered

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["Tracing", "is_tracing_installed"]

_NAMES = {"max_completion_tokens": "max_tokens", "n": "choice.count"}


def is_tracing_installed() -> bool:
    """Whether the extra `tracing` is there."""
    parts = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.exporter.otlp")
    needed = (*parts, "opentelemetry.exporter.otlp.proto", "opentelemetry.exporter.otlp.proto.http")
    return all(importlib.util.find_spec(name) is not None for name in needed)  # each looks into the one before


class Tracing:
    """Tells of requests that have ended."""

    def __init__(self, provider: "TracerProvider") -> None:
        """Send spans to a provider.

        Args:
            provider: with its processors; `close` ends it.
        """
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("understudy.server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to_collector(cls) -> Self:
        """Send spans by OTLP over HTTP, in the background, as the standard OTEL_ variables say."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "understudy"}))
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def tell(self, scope: Mapping[str, Any], *, route: str, status: int, began_s: float, request_id: str) -> None:
        """Tell of a request that has ended just now.

        Args:
            scope: ASGI's.
            route: the route's own text.
            status: what was answered.
            began_s: when it came, by `time.monotonic`.
            request_id: as the log has it.
        """
        now_ns, now_s = time.time_ns(), time.monotonic()
        method, about = scope["method"], answered(scope)
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "understudy.request_id": request_id,
        }
        if status >= 400:
            attributes["error.type"] = str(status)
        if about is not None:
            attributes |= _attributes(about)
        headers = Headers(scope=dict(scope))
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            f"{about.operation} {about.asked_model}" if about else f"{method} {route}",
            context=self._propagator.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=now_ns - round((now_s - began_s) * 1e9),
        )
        if about is not None:
            _tell_first_token(span, about, now_ns=now_ns, now_s=now_s, began_s=began_s)
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(now_ns)


def _attributes(about: Answered) -> dict[str, Any]:
    generations, reasons = about.generations(), about.reasons()
    found: dict[str, Any] = {
        "gen_ai.operation.name": about.operation,
        "gen_ai.provider.name": "understudy",
        "gen_ai.request.model": about.asked_model,
        "gen_ai.response.model": about.model,
        **{f"gen_ai.request.{_NAMES.get(name, name)}": value for name, value in about.settings.items()},
    }
    if about.id is not None:
        found["gen_ai.response.id"] = about.id
    if reasons:
        found["gen_ai.response.finish_reasons"] = tuple(reasons)
    num_input = about.num_input_tokens
    if generations:
        usages = [generation.usage for generation in generations]
        num_input = usages[0].prompt_tokens if num_input is None else num_input
        found["gen_ai.usage.output_tokens"] = sum(usage.completion_tokens for usage in usages)
        found["gen_ai.usage.cache_read.input_tokens"] = usages[0].cached_tokens
    if num_input is not None:
        found["gen_ai.usage.input_tokens"] = num_input
    return found


def _tell_first_token(span: "Span", about: Answered, *, now_ns: int, now_s: float, began_s: float) -> None:
    firsts = [generation.first_s for generation in about.generations() if generation.first_s is not None]
    if firsts:
        attributes = {"gen_ai.server.time_to_first_token": min(firsts) - began_s}
        span.add_event("gen_ai.first_token", attributes, timestamp=now_ns - round((now_s - min(firsts)) * 1e9))
