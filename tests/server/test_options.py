from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ServeError
from understudy.server.options import ServerOptions


def test_a_file_has_the_same_words(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    file = tmp_path / "serve.toml"
    file.write_text("""
        host = "0.0.0.0"
        port = 9000
        keys = "keys.toml"
        log = "json"
        engine_process = false
        drain_s = 5
        stream_interval_ms = 0
        cors_origins = ["https://game.example"]
        tls_certificate = "cert.pem"
        tls_key = "key.pem"
        [models]
        harrow = "harrow.gguf"
        big = "/models/big"
    """)
    options = ServerOptions.read(file)
    assert options == ServerOptions(
        host="0.0.0.0",
        port=9000,
        keys=tmp_path / "keys.toml",
        log="json",
        engine_process=False,
        drain_s=5.0,
        stream_interval_ms=0.0,
        cors_origins=("https://game.example",),
        tls_certificate=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
        models={"harrow": tmp_path / "harrow.gguf", "big": Path("/models/big")},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown word 'prot'; there are models"),
        ('port = "80"', "port of .* wrong kind"),
        ("port = true", "port of .* wrong kind"),
        ('models = "x.gguf"', "models of .* wrong kind"),
        ("[models]\na = 1", "models of .* wrong kind"),
        ('cors_origins = "*"', "cors_origins of .* wrong kind"),
        ("engine_process = 1", "engine_process of .* wrong kind"),
        ("log = 3", "log of .* wrong kind"),
        ('log = "xml"', 'log must be "text" or "json"'),
        ("drain_s = nan", "drain_s from 0"),
        ("stream_interval_ms = 1001", "stream_interval_ms must be from 0"),
        ("port = 70000", "port must be from 0"),
        ("port = ", "is no TOML"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "serve.toml").write_text(text)
    with pytest.raises(ServeError, match=message):
        ServerOptions.read(tmp_path / "serve.toml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_waiting": 0}, "max_waiting"),
        ({"max_request_s": 0}, "max_request_s"),
        ({"cors_origins": ("game.example",)}, "An origin is like"),
        ({"cors_origins": ("https://a/b",)}, "An origin is like"),
        ({"tls_key": Path("key.pem")}, "belong together"),
        ({"tls_key": Path("none.pem"), "tls_certificate": Path("none.pem")}, "There is no file none.pem"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ServeError, match=message):
        ServerOptions(**values)
