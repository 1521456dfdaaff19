"""`/metrics` in Prometheus' format, under the names of NVIDIA's NIM and of vLLM: boards made for either work."""

import dataclasses
from collections import deque
from collections.abc import Iterator

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from understudy.engine import Generation
from understudy.server.histogram import Histogram
from understudy.server.served import ServedModel, Shelf

__all__ = ["Metrics", "add_metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4096)
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_REASONS = {"cancelled": "abort", "deadline": "deadline", "length": "length", "stop": "stop", None: "error"}


class _Histograms:
    """Of ended requests, under both sets of names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def make(name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
            histogram = Histogram((name, f"vllm:{name}"), what, bounds)
            registry.register(histogram)
            return histogram

        self.first_token = make("time_to_first_token_seconds", "From arrival to the first token.", _SECONDS)
        self.per_token = make(
            "time_per_output_token_seconds", "Mean of a request, from its second token on.", _TOKEN_SECONDS
        )
        self.whole = make("e2e_request_latency_seconds", "From arrival to the end.", _SECONDS)
        self.prompt = make("request_prompt_tokens", "Tokens of a request's prompt.", _TOKENS)
        self.generation = make("request_generation_tokens", "Tokens of a request's answer.", _TOKENS)

    def observe(self, name: str, generation: Generation) -> None:
        """Count an ended request in."""
        usage, begun = generation.usage, generation.began_s
        if generation.first_s is not None and generation.done_s is not None:
            self.first_token.observe(name, generation.first_s - begun)
            if usage.completion_tokens > 1:
                spoken_s = generation.done_s - generation.first_s
                self.per_token.observe(name, spoken_s / (usage.completion_tokens - 1))
        if generation.done_s is not None:
            self.whole.observe(name, generation.done_s - begun)
        self.prompt.observe(name, usage.prompt_tokens)
        self.generation.observe(name, usage.completion_tokens)


class Metrics:
    """All figures of a server.

    Ended requests are put into a queue by whatever thread ends them, the garbage collector's included, and counted when
    somebody looks: a metric's lock is never taken there.
    """

    def __init__(self, shelf: Shelf) -> None:
        """Start counting.

        Args:
            shelf: the models; one that loads later is counted from then on.
        """
        self._shelf = shelf
        self._ended: deque[tuple[str, Generation]] = deque()
        self.registry = CollectorRegistry()
        self._histograms = _Histograms(self.registry)
        label = ["model_name"]
        self._success = Counter("request_success", "Answers that ended well.", label, registry=self.registry)
        self._failure = Counter("request_failure", "Answers that failed.", label, registry=self.registry)
        both = [*label, "finished_reason"]
        self._finish = Counter("request_finish", "Answers by how they ended.", both, registry=self.registry)
        self._vllm = Counter("vllm:request_success", "Answers by how they ended.", both, registry=self.registry)
        visits = ["method", "route", "status"]
        self._visits = Counter("http_requests", "HTTP requests, probes too.", visits, registry=self.registry)
        self.registry.register(_Gauges(shelf))
        ProcessCollector(registry=self.registry)
        for model in shelf.models:
            model.on_done = self._listener(model)

    def visit(self, method: str, route: str, status: int) -> None:
        """Count an HTTP request; called in the event loop, now and then also counting what ended."""
        self._visits.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._count_ended()

    def text(self) -> bytes:
        """What Prometheus reads."""
        self._count_ended()
        return generate_latest(self.registry)

    def _listener(self, model: ServedModel) -> "_Listener":
        return _Listener(self._ended, model.name)

    def _count_ended(self) -> None:
        while self._ended:
            name, generation = self._ended.popleft()
            reason = _REASONS[generation.finish_reason]
            if reason in ("stop", "length"):
                self._success.labels(name).inc()
            elif reason == "error":
                self._failure.labels(name).inc()
            for counter in (self._finish, self._vllm):
                counter.labels(name, reason).inc()
            self._histograms.observe(name, generation)


@dataclasses.dataclass(frozen=True)
class _Listener:
    """Puts what a model ended into the queue."""

    ended: deque[tuple[str, Generation]]
    name: str

    def __call__(self, generation: Generation) -> None:
        self.ended.append((self.name, generation))


class _Gauges:
    """What the engines do at the moment of a look."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def collect(self) -> Iterator[Metric]:
        """The figures; called by the registry."""
        for prefix in ("", "vllm:"):
            cache = "kv_cache_usage_perc" if prefix else "gpu_cache_usage_perc"
            running = GaugeMetricFamily(f"{prefix}num_requests_running", "In the running batch.", labels=["model_name"])
            waiting = GaugeMetricFamily(f"{prefix}num_requests_waiting", "Wait for a place.", labels=["model_name"])
            most = GaugeMetricFamily(f"{prefix}num_request_max", "Places in the batch.", labels=["model_name"])
            usage = GaugeMetricFamily(
                f"{prefix}{cache}", "Share of the KV cache in use, 0 to 1.", labels=["model_name"]
            )
            prompt = CounterMetricFamily(f"{prefix}prompt_tokens", "Of all prompts.", labels=["model_name"])
            cached = CounterMetricFamily(f"{prefix}prefix_cache_hits", "Of these, cached.", labels=["model_name"])
            generated = CounterMetricFamily(f"{prefix}generation_tokens", "Drawn.", labels=["model_name"])
            for model in self._shelf.models:
                if not model.is_ready:
                    continue
                name, stats = [model.name], model.engine.stats()
                running.add_metric(name, stats.num_running)
                waiting.add_metric(name, stats.num_waiting)
                most.add_metric(name, model.engine.options.max_running)
                prompt.add_metric(name, stats.prompt_tokens)
                cached.add_metric(name, stats.cached_tokens)
                generated.add_metric(name, stats.generated_tokens)
                if stats.cache_usage is not None:
                    usage.add_metric(name, stats.cache_usage)
            yield from (running, waiting, most, usage, prompt, cached, generated)


def add_metrics(app: FastAPI, metrics: Metrics) -> None:
    """Add the routes."""

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    @app.get("/v1/metrics", summary="The same, where NIM has them", response_class=PlainTextResponse)
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
