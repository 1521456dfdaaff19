"""A server in a process of its own: its beginning, its end, and TLS."""

import contextlib
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from understudy.model.gguf_writer import write_gguf
from understudy.server.keys import write_new_key
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    config = tiny_config()
    write_gguf(path, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    return path


def _hear_hangups() -> None:
    """Under nohup children begin with it ignored, and the server leaves it so."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Process:
    """`understudy serve` until it answers."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0", *map(str, arguments)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NIM_", "UNDERSTUDY_"))}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=_hear_hangups,  # noqa: PLW1509 (it calls the system alone)
        )
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 120)[0]:
            self.process.kill()
            raise AssertionError("it never answered")
        line = self.process.stdout.readline()
        assert " at http" in line, self.process.stderr.read() if self.process.stderr else line
        self.url = line.split(" at ")[1].split(" ")[0]

    def end(self, *, within_s: float = 20) -> str:
        """Wait for the end; what it logged."""
        return self.process.communicate(timeout=within_s)[1]


@pytest.fixture
def drained(model_file: Path, tmp_path: Path) -> Iterator[Process]:
    config = tmp_path / "serve.toml"
    config.write_text('log = "json"\ndrain_s = 20\n')
    server = Process("--model", model_file, "--config", config, "--backend", "reference")  # slow: answers take seconds
    yield server
    server.process.kill()
    server.process.wait()
    for pipe in (server.process.stdout, server.process.stderr):
        assert pipe is not None
        pipe.close()


BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Geheimnis"}],
    "stream": True,
    "max_tokens": 2000,
    "logit_bias": {"3": -100, "4": -100, "5": -100},  # all that ends an answer
}


def test_sigterm_lets_a_stream_end_and_takes_nothing_new(drained: Process) -> None:
    with httpx.stream("POST", f"{drained.url}/chat/completions", json=BODY, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        drained.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        refused = httpx.post(f"{drained.url}/chat/completions", json=BODY, timeout=10)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_draining")
        assert int(refused.headers["retry-after"]) > 0
        assert httpx.get(f"{drained.url}/health/ready", timeout=10).status_code == 503
        assert httpx.get(f"{drained.url}/health/live", timeout=10).status_code == 200
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2] or '"finish_reason":"stop"' in rest[-2]
    log = drained.end()
    assert drained.process.returncode == -signal.SIGTERM
    told = [json.loads(line) for line in log.splitlines()]
    statuses = [line["status"] for line in told if line["message"] == "request"]
    assert sorted(statuses) == [200, 503]
    assert "Geheimnis" not in log


def test_a_second_sigterm_does_not_wait(drained: Process) -> None:
    with httpx.stream("POST", f"{drained.url}/chat/completions", json=BODY, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        drained.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        drained.process.send_signal(signal.SIGTERM)
        text = "\n".join(lines)
    assert '"object":"error"' in text
    drained.end()
    assert time.monotonic() - began < 10


def test_sighup_reads_the_file_anew(tmp_path: Path) -> None:
    config, path = tiny_config(), tmp_path / "tiny.gguf"

    def put(seed: int) -> None:
        part = tmp_path / "part"
        write_gguf(part, config, random_tensors(config, seed=seed), byte_tokenizer().definition, None, file_type="f16")
        os.utime(part, (seed, seed))
        part.replace(path)

    put(1)
    keys = tmp_path / "keys.toml"
    first = write_new_key(keys, "first")
    server = Process("--model", path, "--keys", keys)

    def get(path: str, key: str) -> httpx.Response:
        return httpx.get(f"{server.url}/{path}", headers={"Authorization": f"Bearer {key}"}, timeout=20)

    try:
        put(2)
        second = write_new_key(keys, "second")
        assert get("models/tiny", second).status_code == 401
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while get("models/tiny", first).json()["created"] != 2:
            assert time.monotonic() < deadline
            assert httpx.get(f"{server.url}/health/ready", timeout=20).status_code == 200
            time.sleep(0.05)
        assert get("models/tiny", second).status_code == 200
        keys.write_text("[keys")
        (tmp_path / "part").write_bytes(b"GGUF")
        (tmp_path / "part").replace(path)
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert get("models/tiny", second).json()["created"] == 2
    finally:
        server.process.terminate()
        log = server.end()
    assert "The keys are read anew: 2." in log and "The keys are not read anew, the old ones go on: " in log
    assert "The model 'tiny' is reloaded." in log
    assert "The model 'tiny' is not reloaded, the old one goes on: " in log


def test_the_port_is_open_before_the_model_is(tmp_path: Path) -> None:
    # A model's file that is a pipe: it loads for as long as nobody writes.
    fifo = tmp_path / "slow.gguf"
    os.mkfifo(fifo)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "understudy.cli", "serve", "--model", str(fifo), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            url, deadline = f"http://127.0.0.1:{port}/v1", time.monotonic() + 60
            while True:
                try:
                    ready = httpx.get(f"{url}/health/ready", timeout=10)
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert ready.status_code == 503
            refused = httpx.post(f"{url}/chat/completions", json={**BODY, "model": "slow"}, timeout=10)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
            threading.Thread(target=_write, args=(fifo, b"no model"), daemon=True).start()
            _, err = process.communicate(timeout=30)
            assert process.returncode == 2
            assert err.strip().splitlines()[-1].startswith("understudy: ")
        finally:
            process.kill()


def _write(fifo: Path, content: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader may have seen enough
        fifo.write_bytes(content)


def test_tls(model_file: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("openssl made no certificate")
    config = tmp_path / "serve.toml"
    config.write_text('tls_certificate = "cert.pem"\ntls_key = "key.pem"\n')
    server = Process("--model", model_file, "--config", config)
    try:
        assert server.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=certificate)
        assert httpx.get(f"{server.url}/models", verify=trusted, timeout=20).status_code == 200
    finally:
        server.process.terminate()
        server.end()


def test_a_certificate_that_is_none(model_file: Path, tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nothing")
    (tmp_path / "serve.toml").write_text('tls_certificate = "cert.pem"\ntls_key = "key.pem"\n')
    command = [sys.executable, "-m", "understudy.cli", "serve", "--model", str(model_file), "--port", "0"]
    command += ["--config", str(tmp_path / "serve.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "cannot be used" in ended.stderr
