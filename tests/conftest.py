"""All tests: offline, seeded, examples of hypothesis always the same."""

import os
import socket
from typing import Any

import hypothesis
import pytest

from understudy.errors import GpuError
from understudy.kernels.gpu_adapters import Adapter, list_adapters

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # before transformers is imported anywhere
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")
UNBOUNDED = ("slow", "peers", "browser", "clients")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No limit of time where minutes are what the marker says."""
    for item in items:
        if any(item.get_closest_marker(name) for name in UNBOUNDED):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests connect to this machine only."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"The test reaches out to {address[0]}.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(scope="session")
def adapter() -> Adapter:
    """The first graphics adapter, software or not."""
    try:
        adapters = list_adapters()
    except GpuError as error:
        pytest.skip(str(error))
    if not adapters:
        pytest.skip("no graphics adapter; a software one: apt install mesa-vulkan-drivers libvulkan1")
    return adapters[0]
