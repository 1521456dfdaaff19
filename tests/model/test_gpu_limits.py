"""Work is cut and spread so that a game keeps its frames."""

import pytest

from understudy.model.gpu_limits import GpuLimits, Pace, PassCosts


class Gpu:
    """A GPU of a known speed, on a clock of its own."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s, self.now, self.busy, self.longest = bytes_per_s, 0.0, 0.0, 0.0
        self.submissions: list[slice] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, pace: Pace, num_bytes: list[int]) -> None:
        def submit(part: slice) -> None:
            took = sum(num_bytes[part]) / self.bytes_per_s
            self.submissions.append(part)
            self.now += took
            self.busy += took
            self.longest = max(self.longest, took)

        pace.run(PassCosts(num_bytes), submit, lambda: None)


def pace(gpu: Gpu, **limits: float) -> Pace:
    return Pace(GpuLimits(**limits), clock=lambda: gpu.now, sleep=gpu.sleep)  # type: ignore[arg-type]


def test_no_submission_holds_the_gpu_longer_than_is_allowed() -> None:
    gpu = Gpu(5e9)  # slower than is assumed at first
    held = pace(gpu, submission_ms=4)
    work = [4_000_000] * 200
    for _ in range(3):
        gpu.run(held, work)
    gpu.longest = 0
    gpu.submissions.clear()
    gpu.run(held, work)
    assert gpu.longest <= 0.0042
    assert [n for part in gpu.submissions for n in range(200)[part]] == list(range(200))


def test_a_fast_gpu_gets_a_pass_in_one_piece() -> None:
    gpu = Gpu(300e9)
    held = pace(gpu, submission_ms=4)
    for _ in range(4):
        gpu.run(held, [4_000_000] * 100)
    gpu.submissions.clear()
    gpu.run(held, [4_000_000] * 100)
    assert len(gpu.submissions) == 1
    gpu.bytes_per_s = 10e9  # the game draws something
    for _ in range(16 * 20):
        gpu.run(held, [4_000_000] * 100)
    gpu.longest = 0
    gpu.run(held, [4_000_000] * 100)
    assert gpu.longest <= 0.0042


def test_a_share_of_each_frame() -> None:
    gpu = Gpu(50e9)
    held = pace(gpu, frame_ms=5)
    for _ in range(20):
        gpu.run(held, [10_000_000] * 60)
    assert gpu.busy / gpu.now == pytest.approx(5 / (1000 / 60), rel=0.01)


def test_tokens_a_second() -> None:
    gpu = Gpu(1e9)
    held = pace(gpu, tokens_per_s=20)
    for _ in range(41):
        held.hold_back(1)
    assert gpu.now == pytest.approx(2.0, rel=0.01)
    gpu.now += 10
    held.hold_back(1)
    assert gpu.now == pytest.approx(12.0, rel=0.01)  # nothing is saved up, and nothing is owed


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="frame_ms must be above 0"):
        GpuLimits(frame_ms=0)
