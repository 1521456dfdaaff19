from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from understudy.kernels.formats import StorageType
from understudy.model.gguf_writer import write_gguf_tensors

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server was asked to do; it ends at once."""
    seen: dict[str, Any] = {}
    for name in ("NIM_SERVER_PORT", "NIM_SERVED_MODEL_NAME", "NIM_MODEL_PATH", "NIM_JSONL_LOGGING", "NIM_SSL_MODE"):
        monkeypatch.delenv(name, raising=False)

    def run_server(app: Any, host: str, port: int, *, ready: Callable[[str], None]) -> None:
        names = [model.name for model in app.state.shelf.models]
        seen.update(keys=[key.name for key in app.state.keys.keys], host=host, port=port, names=names)
        seen["log"] = app.state.options.log
        seen["app"] = app
        ready(f"http://{host}:{port}")

    monkeypatch.setattr("understudy.server.run_server", run_server)
    return seen


def test_by_default_on_this_machine_only(run: "Run", model_file: Path, served: dict[str, Any]) -> None:
    result = run("serve", "--model", model_file)
    assert (result.code, result.err) == (0, "")
    del served["app"]
    assert served == {"keys": [], "host": "127.0.0.1", "port": 8000, "names": ["tiny"], "log": "text"}
    assert result.out == "tiny at http://127.0.0.1:8000/v1 (no key)\n"


def test_key_and_name(run: "Run", model_file: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEY", "secret")
    result = run("serve", "--model", model_file, "--name", "npc", "--host", "0.0.0.0", "--port", 9000)
    assert (served["keys"], served["host"], served["port"]) == (["default"], "0.0.0.0", 9000)
    assert result.out == "npc at http://0.0.0.0:9000/v1 (key asked)\n"
    assert "secret" not in result.out


def test_several_models_and_keys(
    run: "Run", model_file: Path, small_context_file: Path, served: dict[str, Any], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    made = run("key", "new", "studio", "--file", keys, "--requests-per-minute", 60, "--max-concurrent", 4)
    assert (made.code, made.out.startswith("us-")) == (0, True)
    assert f"understudy serve --keys {keys}" in made.err
    run("serve", "--model", f"npc={model_file}", "--model", small_context_file, "--keys", keys)
    assert (served["names"], served["keys"]) == (["npc", "small"], ["studio"])
    twice = run("serve", "--model", f"npc={model_file}", "--model", f"npc={small_context_file}")
    assert (twice.code, "two models" in twice.err.lower()) == (2, True)


def write_adapter(path: Path, hidden: int = 64) -> Path:
    """An adapter of one matrix, as `finetune` writes them; `hidden` as the tiny model has it, or not."""
    keys = {"general.architecture": "nemotron", "general.type": "adapter", "adapter.type": "lora"}
    values = {"lora_a": np.ones((2, hidden), "<f4"), "lora_b": np.ones((hidden, 2), "<f4")}
    names = {f"blk.0.attn_output.weight.{end}": value for end, value in values.items()}
    shapes = {name: (value.shape, StorageType.F32) for name, value in names.items()}
    write_gguf_tensors(
        path, {**keys, "adapter.lora.alpha": 4.0}, shapes, lambda name: names[name].reshape(-1).view(np.uint8)
    )
    return path


def test_adapters_belong_to_the_model_before_them(
    run: "Run", model_file: Path, small_context_file: Path, served: dict[str, Any], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "bandit.gguf")
    models = (f"npc={model_file}", f"calm={adapter}", small_context_file, adapter)
    assert run("serve", *(word for model in models for word in ("--model", model))).code == 0
    assert served["names"] == ["npc", "calm", "small", "bandit"]
    shelf = served["app"].state.shelf
    assert [model.parent for model in shelf.models] == [None, "npc", None, "small"]
    shelf.models[3].load()
    card = shelf.models[3].to_json()
    assert (card["id"], card["root"], card["parent"], card["max_model_len"]) == ("bandit", "small", "small", 400)
    name = "model.layers.0.self_attn.o_proj.weight"
    merged, base = (load.model.files.weights[name].dense() for load in (shelf.models[3], _loaded(shelf.models[2])))
    np.testing.assert_allclose(merged, base + 4, atol=0.01)  # (1 + 1) * alpha 4 / rank 2
    shelf.close()


def _loaded(model: Any) -> Any:
    model.load()
    return model


def test_adapters_that_do_not_fit_are_told_before_the_port_is_open(
    run: "Run", model_file: Path, served: dict[str, Any], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "wide.gguf", hidden=96)
    for models in ((model_file, adapter), (adapter,)):  # alone: beside the embedded model
        result = run("serve", *(word for model in models for word in ("--model", model)))
        assert (result.code, served) == (2, {})
        assert "does not fit" in result.err and "adapter and base must belong together" in result.err
    twice = run("serve", "--model", f"a={model_file}", "--model", f"a={adapter}")
    assert (twice.code, "Two models have the name 'a'" in twice.err) == (2, True)


def test_the_embedded_model(run: "Run", served: dict[str, Any]) -> None:
    assert run("serve").out == "harrow at http://127.0.0.1:8000/v1 (no key)\n"


def test_option_beats_environment_beats_file(
    run: "Run", model_file: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('port = 1\nhost = "127.0.0.9"\n[models]\nfrom-file = "none.gguf"\n')
    monkeypatch.setenv("NIM_MODEL_PATH", str(model_file))
    monkeypatch.setenv("NIM_SERVED_MODEL_NAME", "meta/npc")
    monkeypatch.setenv("NIM_SERVER_PORT", "2")
    monkeypatch.setenv("NIM_JSONL_LOGGING", "true")
    assert run("serve", "--config", config).code == 0
    assert (served["host"], served["port"], served["names"], served["log"]) == ("127.0.0.9", 2, ["meta/npc"], "json")
    run("serve", "--config", config, "--port", 3, "--name", "mine")
    assert (served["port"], served["names"]) == (3, ["mine"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "none.gguf"), "There is no model at none.gguf"),
        (("--config", "none.toml"), "There is no file none.toml; --config must name a TOML file"),
        (("--keys", "none.toml"), "understudy key new NAME --file none.toml makes it"),
        (("--log", "xml"), 'log must be "text" or "json"'),
    ],
)
def test_mistakes(run: "Run", served: dict[str, Any], arguments: tuple[str, ...], message: str) -> None:
    result = run("serve", *arguments)
    assert (result.code, served) == (2, {})
    assert message in result.err
    assert result.err.count("\n") == 1


def test_other_ways_of_tls_are_refused(run: "Run", served: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIM_SSL_MODE", "mTLS")
    assert "NIM_SSL_MODE must be TLS or DISABLED" in run("serve").err
    monkeypatch.setenv("NIM_SSL_MODE", "TLS")
    assert "NIM_SSL_CERTS_PATH" in run("serve").err


def test_spans_that_are_asked_for_without_the_extra(
    run: "Run", model_file: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.server.is_tracing_installed", lambda: False)
    assert run("serve", "--model", model_file).err == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    result = run("serve", "--model", model_file)
    assert result.code == 0
    assert result.err == (
        "No spans are sent, although OTEL_EXPORTER_OTLP_ENDPOINT is set: pip install 'understudy[tracing]'\n"
    )
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert run("serve", "--model", model_file).err == ""
