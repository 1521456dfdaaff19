import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from conftest import Stage, Until

    Body = Callable[..., dict[str, Any]]

CHAT = "/v1/chat/completions"


async def figures(client: httpx.AsyncClient, path: str = "/metrics") -> dict[tuple[str, str], float]:
    """By name, and whatever label tells apart."""
    response = await client.get(path)
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, sample.labels.get("finished_reason") or sample.labels.get("status") or ""): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_answers_are_counted(client: httpx.AsyncClient, stage: "Stage", body: "Body") -> None:
    for stream in (False, True):
        assert (await client.post(CHAT, json=body(stream=stream))).status_code == 200
    assert (await client.post(CHAT, json=body(max_tokens=1))).status_code == 200
    found = await figures(client)
    assert found["request_success_total", ""] == 3
    assert found["request_finish_total", "stop"] == found["vllm:request_success_total", "stop"] == 2
    assert found["request_finish_total", "length"] == 1
    for prefix in ("", "vllm:"):
        assert found[f"{prefix}time_to_first_token_seconds_count", ""] == 3
        assert found[f"{prefix}time_per_output_token_seconds_count", ""] == 2
        assert found[f"{prefix}e2e_request_latency_seconds_count", ""] == 3
        assert found[f"{prefix}request_prompt_tokens_sum", ""] == found[f"{prefix}prompt_tokens_total", ""]
        assert (
            found[f"{prefix}request_generation_tokens_sum", ""] == found[f"{prefix}generation_tokens_total", ""] == 15
        )
        assert found[f"{prefix}num_requests_running", ""] == 0
        assert found[f"{prefix}num_request_max", ""] == stage.engine.options.max_running
    assert found["http_requests_total", "200"] == 3
    assert await figures(client, "/v1/metrics") | {} != {}


async def test_work_under_way_and_its_cancelling(
    client: httpx.AsyncClient, stage: "Stage", body: "Body", until: "Until"
) -> None:
    stage.gate.clear()
    task = asyncio.create_task(client.post(CHAT, json=body(n=2)))
    # The second may come too late for the step that the gate holds.
    await until(lambda: stage.engine.stats().num_running + stage.engine.stats().num_waiting == 2)
    found = await figures(client)
    assert found["num_requests_running", ""] >= 1
    assert found["num_requests_running", ""] + found["num_requests_waiting", ""] == 2
    task.cancel()
    await asyncio.wait((task,))
    stage.gate.set()
    found = await figures(client)
    assert (found["num_requests_running", ""], found["request_finish_total", "abort"]) == (0, 2)


async def test_failures_are_counted(client: httpx.AsyncClient, stage: "Stage", body: "Body") -> None:
    stage.failure = RuntimeError("disk on fire")
    assert (await client.post(CHAT, json=body())).status_code == 500
    found = await figures(client)
    assert found["request_failure_total", ""] == found["request_finish_total", "error"] == 1


async def test_the_cache_is_measured_where_it_has_a_bound(tiny: httpx.AsyncClient, body: "Body") -> None:
    await tiny.post(CHAT, json=body(max_tokens=8))
    found = await figures(tiny)
    if ("gpu_cache_usage_perc", "") not in found:
        pytest.skip("NumPy's caches have no bound")
    assert 0 < found["gpu_cache_usage_perc", ""] == found["vllm:kv_cache_usage_perc", ""] < 1
