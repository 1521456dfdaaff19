import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from understudy.distillation.teacher import LocalTeacher
from understudy.distillation.teacher_server import RemoteTeacher, TeacherServer
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

RECIPE = """
name = "pupil"
seed = 1
output = "unused"
validation = "storybooks"
probes_per_kind = 0

[distillation]
top_k = 50

[[source]]
name = "prose"
kind = "text"
corpora = ["storybooks"]

[[stage]]
name = "one"
steps = 2
length = 32
batch_tokens = 64
mixture = { prose = 1.0 }
"""


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    (tmp_path / "data" / "pretrain").mkdir(parents=True)
    record = {"title": "Tale", "text": "The fox ran over the hill. " * 30}
    (tmp_path / "data" / "pretrain" / "storybooks_ccby.jsonl").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path / "data"


@pytest.fixture
def student(tmp_path: Path) -> Path:
    path, config = tmp_path / "student.gguf", tiny_config(num_hidden_layers=1)
    write_gguf(path, config, random_tensors(config, seed=4), byte_tokenizer().definition, None, file_type="f16")
    return path


def test_a_student_is_distilled_served_and_exported(
    run: object, model_file: Path, student: Path, stories: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "pupil.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    common = ["distill", str(recipe), "--student", str(student), "--data", str(stories)]
    done = run(*common, "--teacher", str(model_file), "--output", str(tmp_path / "a"), "--cache", str(tmp_path / "c"))
    assert done.code == 0 and "starting at step 0 of 2" in done.err and "wrote" in done.err
    pupil = load_model(tmp_path / "a" / "pupil.gguf")
    assert pupil.config.num_hidden_layers == 1 and load_model(tmp_path / "a" / "pupil").config == pupil.config
    told = json.loads(pupil.metadata["understudy.distillation"])
    teacher = LocalTeacher(load_model(model_file))
    assert told["top_k"] == 50 and len(told["teacher"]) == 64 and "general.license" not in pupil.metadata
    assert len(list((tmp_path / "c").rglob("*.safetensors"))) == 2
    server = TeacherServer(teacher, tmp_path / "teacher.json")
    thread = threading.Thread(target=server.serve)
    thread.start()
    served = run(*common, "--teacher", str(tmp_path / "teacher.json"), "--output", str(tmp_path / "b"))
    server.close()
    thread.join(timeout=10)
    assert served.code == 0
    pupils = [load_file(tmp_path / n / "pupil" / "model.safetensors") for n in "ab"]
    for name, tensor in pupils[0].items():
        # Not bit by bit: a matrix product may differ with where its operands lie in memory.
        np.testing.assert_allclose(tensor.float(), pupils[1][name].float(), rtol=2e-2, atol=1e-4)


def test_what_is_missing_is_named(run: object, model_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "pupil.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    assert "Name a teacher" in run("distill", str(recipe), "--student", str(model_file), "--output", str(tmp_path)).err
    wrong = run("distill", str(recipe), "--teacher", str(model_file), "--serve", str(tmp_path / "teacher"))
    assert wrong.code == 2 and "--serve takes the name of a .json file" in wrong.err
    gone = run("distill", str(recipe), "--student", str(model_file), "--teacher", str(tmp_path / "none.json"))
    assert gone.code == 2 and "no address file" in gone.err


def _hear_ctrl_c() -> None:
    """A shell's background jobs begin with it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as SIGINT")
def test_a_teacher_is_served_until_ctrl_c(model_file: Path, tmp_path: Path) -> None:
    recipe, address = tmp_path / "pupil.toml", tmp_path / "teacher.json"
    recipe.write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "understudy.cli", "distill", recipe, "--teacher", model_file, "--serve", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_ctrl_c) as server:  # noqa: PLW1509 (it calls the system alone)
        try:
            deadline = time.monotonic() + 60
            while not address.exists() and server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            teacher = RemoteTeacher(address)
            assert teacher.facts.config == load_model(model_file).config
            teacher.close()
        finally:
            server.send_signal(signal.SIGINT)
        error = server.communicate(timeout=60)[1]
    assert server.returncode == 130 and "Ctrl-C ends it" in error and not address.exists()
