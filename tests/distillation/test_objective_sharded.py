"""Two processes distil as one does; a checkpoint of either is the other's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import load_distillation
from understudy.distillation.teacher import LocalTeacher
from understudy.model.checkpoint import LoadedModel
from understudy.testing import byte_tokenizer
from understudy.training.trainer import Trainer

# Five rows for two processes: one has three, the other two; and a stage of one row, where the second has none.
RECIPE = """
name = "pupil"
seed = 3
output = "unused"
validation = "storybooks"
evaluate_every = 1000
checkpoint_every = 2
probes_per_kind = 0
dtype = "float32"
activation_checkpointing = CHECKPOINTING

[optimizer]
kind = "KIND"
warmup_steps = 2

[distillation]
cosine_weight = 0.5
cross_entropy_weight = 0.1

[model]
vocab_size = 268
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 3
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16

[[source]]
name = "prose"
kind = "text"
corpora = ["storybooks"]

[[stage]]
name = "rows"
steps = 3
length = 32
batch_tokens = 160
mixture = { prose = 1.0 }

[[stage]]
name = "row"
steps = 1
length = 32
batch_tokens = 32
mixture = { prose = 1.0 }
"""

SCRIPT = """
import json, sys
from pathlib import Path
from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import load_distillation
from understudy.distillation.teacher import LocalTeacher
from understudy.testing import byte_tokenizer, tiny_model
from understudy.training.sharding import leave_ranks
from understudy.training.trainer import Trainer

stories, *runs = map(Path, sys.argv[1:])
teacher = LocalTeacher(tiny_model(seed=1, num_hidden_layers=3))
for run in runs:
    recipe, plan = load_distillation(run / "recipe.toml")
    objective = Distillation(teacher, plan, student=recipe.model)
    trainer = Trainer(recipe, data=stories, output=run, tokenizer=byte_tokenizer(), report=print, objective=objective)
    assert trainer.ranks.count == 2
    trainer.resume()
    first, losses = trainer.step, [p.loss for p in trainer.run()]
    bpb = trainer.evaluate()["bits_per_byte"]
    if trainer.ranks.is_first:
        (run / "losses.json").write_text(json.dumps({"first": first, "losses": losses, "bits_per_byte": bpb}))
leave_ranks()
"""


def trainer(run: Path, stories: Path, teacher: LocalTeacher) -> Trainer:
    recipe, plan = load_distillation(run / "recipe.toml")
    objective = Distillation(teacher, plan, student=recipe.model)
    return Trainer(recipe, data=stories, output=run, tokenizer=byte_tokenizer(), report=print, objective=objective)


def test_two_processes_are_as_one(
    stories: Path, teacher: LocalTeacher, teacher_files: LoadedModel, tmp_path: Path
) -> None:
    texts = {
        "muon": RECIPE.replace("KIND", "muon").replace("CHECKPOINTING", "false"),
        "adamw": RECIPE.replace("KIND", "adamw").replace("CHECKPOINTING", "true"),
    }
    alone: dict[str, list[float]] = {}
    bits: dict[str, float] = {}
    for name, text in texts.items():
        run = tmp_path / name
        run.mkdir()
        (run / "recipe.toml").write_text(text)
        one = trainer(run, stories, teacher)
        alone[name] = [p.loss for p in one.run() if p.step != 2 or shutil.copytree(run, tmp_path / f"{name}-two")]
        bits[name] = one.evaluate()["bits_per_byte"]
    (
        tmp_path / "muon-two" / "checkpoint.pt"
    ).unlink()  # from the start; the other goes on from one process's checkpoint
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    runs = [tmp_path / f"{name}-two" for name in texts]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, stories, *runs], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, run in zip(texts, runs, strict=True):
        got = json.loads((run / "losses.json").read_text())
        assert got["first"] == (0 if name == "muon" else 2)
        assert got["losses"] == pytest.approx(alone[name][got["first"] :], rel=1e-5)
        assert got["bits_per_byte"] == pytest.approx(bits[name], rel=1e-5)
    back = trainer(runs[0], stories, teacher)
    assert back.resume() and back.step == 4
    assert back.evaluate()["bits_per_byte"] == pytest.approx(bits["muon"], rel=1e-5)
