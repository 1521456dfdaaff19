"""Cores that others hold: the threads of a step may not burn what is left, nor change a bit."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from understudy.engine import Step
from understudy.kernels.native import native_module
from understudy.model.checkpoint import load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.native_backend import CpuBackend

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native_module() is None, reason="the native kernels are not built"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has no second thread"),
]
NUM_STEPS = 100


@pytest.fixture
def busy() -> Iterator[None]:
    """Three programs a core that never rest."""
    count = 3 * (os.cpu_count() or 1)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait(20)


def steps(backend: CpuBackend) -> tuple[float, npt.NDArray[np.float32]]:
    """CPU time of some steps of three sequences, in s, and the last logits."""
    caches = [backend.new_cache() for _ in range(3)]
    backend.forward([Step(cache, range(5, 60), 1) for cache in caches])
    logits: list[npt.NDArray[np.float32]] = []
    began = time.process_time()
    for number in range(NUM_STEPS):
        logits = backend.forward([Step(cache, [5 + number + place], 1) for place, cache in enumerate(caches)])
    return time.process_time() - began, np.concatenate(logits)


@pytest.mark.usefixtures("busy")
def test_waiting_threads_step_aside() -> None:
    files = load_model(embedded_model_path())
    one_s, alone = steps(CpuBackend(files.config, files.weights, num_threads=1))
    two_s, shared = steps(CpuBackend(files.config, files.weights, num_threads=2))
    assert np.array_equal(alone, shared)
    assert two_s < 3 * one_s
