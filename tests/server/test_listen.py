import socket

import pytest

from understudy.errors import ServeError
from understudy.server.listen import open_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_this_machine_needs_no_key(host: str) -> None:
    with open_socket(host, 0, has_key=False) as listener:
        assert listener.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8"])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(ServeError, match="UNDERSTUDY_API_KEY"):
        open_socket(host, 0, has_key=False)


def test_with_a_key_any_address_will_do() -> None:
    open_socket("0.0.0.0", 0, has_key=True).close()


def test_a_port_in_use() -> None:
    with open_socket("127.0.0.1", 0, has_key=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"Port {port} of 127.0.0.1 is in use; choose another with --port"):
            open_socket("127.0.0.1", port, has_key=False)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "There is no address"),
        ("a" * 300, "There is no address"),
        ("192.0.2.1", "no address of this machine"),
    ],
)
def test_addresses_that_are_none(host: str, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        open_socket(host, 0, has_key=True)


def test_low_ports_are_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ServeError, match="choose one from 1024 up"):
        open_socket("127.0.0.1", 80, has_key=False)
