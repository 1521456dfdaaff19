"""`understudy pull` and `understudy models` against a hub on this machine, each in a process with its settings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.cli.hub_server import Hub

from understudy.model.safetensors_file import read_safetensors
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

Pull = Callable[..., subprocess.CompletedProcess[str]]
NAME = "studio/Tiny-4B"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder beside files that nobody needs."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("repo")
    config = tiny_config()
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer().definition))
    (folder / "LICENSE").write_text("Do what you like.")
    (folder / "training_args.bin").write_bytes(b"not for us")
    save_file(random_tensors(config), folder / "model.safetensors")
    return folder


@pytest.fixture
def hub(repo: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.repos[NAME] = repo
    yield hub
    hub.close()


@pytest.fixture
def command(hub: Hub, tmp_path: Path) -> Pull:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "COLUMNS": "200",
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        return subprocess.run(
            [sys.executable, "-c", "from understudy.cli import main; main()", *arguments],
            env={**clean, **settings, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def downloads(hub: Hub) -> list[str]:
    return [path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]


def test_a_model_comes_and_is_found_by_its_name(hub: Hub, command: Pull, repo: Path) -> None:
    done = command("pull", NAME)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ("LICENSE", "config.json", "model.safetensors", "tokenizer.json")
    )
    assert f"understudy quantize {NAME} tiny-4b.gguf" in done.stderr
    assert read_safetensors(folder / "model.safetensors").keys() == read_safetensors(repo / "model.safetensors").keys()
    listed = command("models")
    assert NAME in listed.stdout
    assert "(default)" in listed.stdout
    said = command("chat", "--model", NAME, "--say", "Good day!", "--max-tokens", "3")
    assert said.returncode == 0, said.stderr
    hub.requests.clear()
    again = command("pull", NAME)
    assert again.returncode == 0
    assert downloads(hub) == []


def test_a_broken_download_goes_on_where_it_was(hub: Hub, command: Pull, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    data = np.random.default_rng(0).bytes(24 << 20)  # the library writes 10 MB at a time
    (packed / "big.gguf").write_bytes(data)
    hub.repos["studio/packed"] = packed
    hub.drops = 1
    done = command("pull", "studio/packed")
    if done.returncode:  # the library gives up at once, or tries again by itself
        assert "Run the same command again" in done.stderr
        done = command("pull", "studio/packed")
    assert Path(done.stdout.strip()).read_bytes() == data
    assert "bytes=10485760-" in [wanted for _, path, wanted in hub.requests if path.endswith("big.gguf")]


def test_damage_on_the_way_is_found_and_nothing_of_it_stays(hub: Hub, command: Pull) -> None:
    hub.is_lying = True
    done = command("pull", NAME)
    assert done.returncode == 2
    assert "arrived damaged" in done.stderr
    hub.is_lying = False
    assert command("pull", NAME).returncode == 0


def test_a_foreign_model_is_refused_before_its_weights(hub: Hub, command: Pull, repo: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in repo.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text('{"model_type": "llama"}')
    hub.repos["studio/llama"] = other
    done = command("pull", "studio/llama")
    assert done.returncode == 2
    assert "'llama' model" in done.stderr
    assert downloads(hub) == ["config.json"]


def test_who_may_not_is_told_what_to_do(hub: Hub, command: Pull) -> None:
    hub.gated.add("studio/gated")
    assert "accepted its terms" in command("pull", "studio/gated").stderr
    assert "check the name, or set HF_TOKEN" in command("pull", "studio/none").stderr
    assert "no such revision" in command("pull", NAME, "--revision", "v9").stderr
    hub.token = "secret"
    assert command("pull", NAME).returncode == 2
    assert command("pull", NAME, HF_TOKEN="secret").returncode == 0


def test_without_a_network(command: Pull) -> None:
    done = command("pull", NAME, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "could not be fetched" in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_what_was_never_pulled(command: Pull) -> None:
    done = command("chat", "--model", "studio/unknown", "--say", "Hi")
    assert "understudy pull studio/unknown" in done.stderr
