import prometheus_client

from understudy.server.histogram import Histogram


def test_it_tells_what_prometheus_own_tells() -> None:
    bounds = (0.005, 0.5, 1, 2.5, 100)
    ours, theirs = prometheus_client.CollectorRegistry(), prometheus_client.CollectorRegistry()
    histogram = Histogram(["a_seconds", "vllm:a_seconds"], "Of something.", bounds)
    ours.register(histogram)
    names = ("a_seconds", "vllm:a_seconds")
    own = [
        prometheus_client.Histogram(name, "Of something.", ["model_name"], registry=theirs, buckets=bounds)
        for name in names
    ]
    for model, value in (("x", 0.5), ("x", 0.51), ("y", 0.001), ("x", 1.0), ("y", 1000.0), ("x", 0)):
        histogram.observe(model, value)
        for one in own:
            one.labels(model).observe(value)

    def told(registry: prometheus_client.CollectorRegistry) -> list[str]:
        lines = prometheus_client.generate_latest(registry).decode().splitlines()
        return sorted(line for line in lines if "_created" not in line)

    assert told(ours) == told(theirs)
    assert len(told(ours)) == 2 * (2 + 2 * (len(bounds) + 1 + 2))


def test_nothing_counted_is_nothing_told() -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(Histogram(["a"], "Of something.", (1,)))
    assert all(line.startswith("#") for line in prometheus_client.generate_latest(registry).decode().splitlines())
