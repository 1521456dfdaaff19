"""Minitron (arXiv 2407.14679) reproduced small: is a pruned and distilled student better than one from scratch?

Run: python benchmarks/minitron.py DATA_FOLDER --output FOLDER [--teacher MODEL] [--tokens 1000000] [--arms AEF]

The student has the ratios of NVIDIA's 15B to 4B: hidden x 1/2, MLP x 3/8, query heads x 1/2; KV heads and head size
are kept.
All arms see the same batches, with the same optimizer; validation is on held-out books, in nats a token.

A random weights, cross-entropy         E pruned by importance, cross-entropy
B as A, with the compute of F           F pruned by importance, KL from the teacher
C random weights, KL                    G as F, in two hops over a model half-way
D pruned at random, KL                  H pruned in depth, KL
                                        L as A, with the teacher's tokens too

Kill it at any moment and run it again: finished arms are kept, the running one goes on from its checkpoint.
"""

import argparse
import csv
import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data.sources import read_texts
from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import LocalTeacher
from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.model.embedded import embedded_model_path
from understudy.pruning.depth import choose_layers, prune_depth
from understudy.pruning.importance import Importance, load_importance, measure_importance
from understudy.pruning.tensors import stored_tensors
from understudy.pruning.width import WidthTarget, order_by_importance, prune_width, random_order
from understudy.training.calibration import draw_batches
from understudy.training.folder import write_folder, write_json
from understudy.training.model import to_hf_tensors
from understudy.training.objective import CrossEntropy, Objective
from understudy.training.precision import has_fast_bf16
from understudy.training.recipe import OptimizerRecipe, Recipe, SourceRecipe, StageRecipe
from understudy.training.trainer import Trainer

ARMS = "ABCDEFGHL"
SEEDED = "AEF"
LENGTH = 256
BATCH_TOKENS = 8192
SAMPLES = 256
VALIDATION_WINDOWS = 128
SOURCES = (
    SourceRecipe(name="prose", kind="text", corpora=("storybooks", "fairytales")),
    SourceRecipe(name="lookups", kind="lookup", count=12_000, seed=91),
)
MIXTURE = {"prose": 0.7, "lookups": 0.3}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training of the experiment.

    Attributes:
        letter: see the table above.
        seed: of weights and batches.
        tokens: that it trains on.
        has_teacher: whether its loss is the KL from the teacher.
    """

    letter: str
    seed: int
    tokens: int
    has_teacher: bool

    @property
    def name(self) -> str:
        return f"{self.letter}{self.seed}"


class Experiment:
    """The teacher, the students' shapes, and the folder that results are kept in."""

    def __init__(self, data: Path, output: Path, teacher: Path, tokens: int, teacher_tokens: int) -> None:
        self.data, self.output, self.tokens, self.teacher_tokens = data, output, tokens, teacher_tokens
        self.files = load_model(teacher)
        dtype = "bfloat16" if has_fast_bf16(torch.device("cpu")) else "float32"
        self.teacher = LocalTeacher(self.files, dtype=dtype)
        self.output.mkdir(parents=True, exist_ok=True)
        self.windows = self._windows()

    def _windows(self) -> list[Tensor]:
        ids = [i for text in read_texts("books_dev", self.data) for i in self.files.tokenizer.encode(text[:200_000])]
        rows = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)
        return list(rows[:: max(1, len(rows) // VALIDATION_WINDOWS)][:VALIDATION_WINDOWS].split(16))

    def student_shape(self) -> NemotronConfig:
        """The ratios of 15B to 4B."""
        config = self.files.config
        return dataclasses.replace(
            config,
            hidden_size=config.hidden_size // 2,
            intermediate_size=config.intermediate_size * 3 // 8,
            num_attention_heads=max(config.num_key_value_heads, config.num_attention_heads // 2),
        )

    def importance(self) -> Importance:
        """Measured once, on the training's own prose."""
        path = self.output / "importance.safetensors"
        if not path.exists():
            measure_importance(self.files, self._calibration()).save(path)
        return load_importance(path, self.files)

    def _calibration(self) -> list[Tensor]:
        text = "\n\n".join(islice(read_texts("storybooks", self.data), 400))
        ids = torch.tensor(self.files.tokenizer.encode(text)).numpy()
        return draw_batches(ids, samples=SAMPLES, length=LENGTH)

    def start(self, arm: Arm) -> Path | None:
        """The weights that an arm begins with; None for random ones."""
        if arm.letter in "ABCL":
            return None
        folder = self.output / f"{arm.name}-start"
        if not (folder / "model.safetensors").exists():
            tensors, config = self._cut(arm)
            whole = {name: tensors[name] for name in tensors}
            write_folder(folder, config, whole, self.files.tokenizer)
        return folder

    def _cut(self, arm: Arm) -> tuple[Mapping[str, Tensor], NemotronConfig]:
        config, shape = self.files.config, self.student_shape()
        tensors = stored_tensors(self.files)
        target = WidthTarget(
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_attention_heads=shape.num_attention_heads,
        )
        if arm.letter == "D":
            return prune_width(tensors, config, random_order(config, seed=arm.seed), target)
        if arm.letter == "H":
            keep = max(1, round(config.num_hidden_layers * _body(shape) / _body(config)))
            return prune_depth(tensors, config, choose_layers(self.importance().layers, keep=keep))
        if arm.letter == "G":
            return self._second_hop(arm, target)
        return prune_width(tensors, config, order_by_importance(self.importance(), config), target)

    def _second_hop(self, arm: Arm, target: WidthTarget) -> tuple[Mapping[str, Tensor], NemotronConfig]:
        """Cut the model half-way that the first hop distilled, with half of the arm's tokens."""
        middle = self.output / f"{arm.name}-middle"
        if not (middle / "model.safetensors").exists():
            config = self.files.config
            half = WidthTarget(
                hidden_size=config.hidden_size * 3 // 4,
                intermediate_size=config.intermediate_size * 11 // 16,
                num_attention_heads=config.num_attention_heads,
            )
            order = order_by_importance(self.importance(), config)
            tensors, shape = prune_width(stored_tensors(self.files), config, order, half)
            write_folder(middle / "start", shape, {n: tensors[n] for n in tensors}, self.files.tokenizer)
            hop = dataclasses.replace(arm, tokens=arm.tokens // 2)
            trainer = self.train(hop, middle / "start", self.output / f"{arm.name}-hop")
            write_folder(middle, shape, to_hf_tensors(trainer.model), self.files.tokenizer)
        files = load_model(middle)
        scores = measure_importance(files, self._calibration())
        return prune_width(stored_tensors(files), files.config, order_by_importance(scores, files.config), target)

    def train(self, arm: Arm, start: Path | None, run: Path) -> Trainer:
        """Train to the end, from the last checkpoint if there is one."""
        files = load_model(start) if start else None
        config = files.config if files else self.student_shape()
        steps = max(1, arm.tokens // BATCH_TOKENS)
        recipe = Recipe(
            name=arm.name,
            seed=arm.seed,
            output=str(run),
            model=config,
            sources=SOURCES,
            stages=(StageRecipe(name="all", steps=steps, length=LENGTH, batch_tokens=BATCH_TOKENS, mixture=MIXTURE),),
            optimizer=OptimizerRecipe(warmup_steps=min(50, steps // 5 + 1), decay_share=0.5),
            evaluate_every=10**9,
            checkpoint_every=40,
            probes_per_kind=1,
        )
        run.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(
            recipe,
            data=self.data,
            output=run,
            tokenizer=self.files.tokenizer,
            report=print,
            objective=self._objective(arm, config),
            corpora=self.output / "corpora",
        )
        if files:
            trainer.start_from(files)
        if not trainer.resume():
            _note(run, 0, self.validate(trainer))
        every = max(1, steps // 12)
        for state in trainer.run():
            if state.step % every == 0 or state.step == steps:
                loss = self.validate(trainer)
                _note(run, state.step * BATCH_TOKENS, loss)
                print(f"{arm.name}: {state.step} of {steps}, {loss:.4f} nats, {state.tokens_per_s:,.0f} tokens/s")
        return trainer

    def _objective(self, arm: Arm, student: NemotronConfig) -> Objective:
        if not arm.has_teacher:
            return CrossEntropy()
        return Distillation(self.teacher, DistillationRecipe(), student=student)

    @torch.no_grad()
    def validate(self, trainer: Trainer) -> float:
        """Nats a token on the held-out books."""
        trainer.model.eval()
        nats, count = 0.0, 0
        for rows in self.windows:
            weights = torch.ones(rows.shape[0], rows.shape[1] - 1)
            with trainer.autocast:
                nats += float(trainer.model.loss_sum(rows, weights))
            count += weights.numel()
        trainer.model.train()
        return nats / count

    def run(self, arm: Arm) -> dict[str, Any]:
        """An arm's result: validation loss at its start and end."""
        path = self.output / f"{arm.name}.json"
        if not path.exists():
            run = self.output / f"{arm.name}-run"
            start = self.start(arm)
            tokens = arm.tokens // 2 if arm.letter == "G" else arm.tokens
            trainer = self.train(dataclasses.replace(arm, tokens=tokens), start, run)
            result = {
                "arm": arm.letter,
                "seed": arm.seed,
                "tokens": arm.tokens,
                "parameters": trainer.recipe.model.num_parameters,
                "loss": self.validate(trainer),
                "curve": _curve(run / "curve.csv"),
            }
            write_json(path, result)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def _note(run: Path, tokens: int, loss: float) -> None:
    with (run / "curve.csv").open("a", newline="") as file:
        csv.writer(file).writerow([tokens, f"{loss:.5f}"])


def _body(config: NemotronConfig) -> int:
    """Weights that are in layers."""
    return config.num_parameters - 2 * config.vocab_size * config.hidden_size


def _active(config: NemotronConfig) -> int:
    return config.num_parameters - config.vocab_size * config.hidden_size


def _curve(path: Path) -> list[tuple[int, float]]:
    """(tokens, nats); of steps done twice after a kill, the last."""
    with path.open(newline="") as file:
        return sorted({int(tokens): float(loss) for tokens, loss in csv.reader(file)}.items())


def plan_arms(experiment: Experiment, letters: str) -> list[Arm]:
    """All arms that were asked for; A, E and F with three seeds."""
    student, teacher = experiment.student_shape(), experiment.files.config
    share = (6 * _active(student) + 2 * _active(teacher)) / (6 * _active(student))
    tokens = {"B": int(experiment.tokens * share), "L": experiment.tokens + experiment.teacher_tokens}
    return [
        Arm(letter, seed, tokens.get(letter, experiment.tokens), letter in "CDFGH")
        for seed in (1, 2, 3)
        for letter in letters
        if seed == 1 or letter in SEEDED
    ]


def report(results: list[dict[str, Any]], output: Path) -> None:
    """A Markdown table, the token multiplier, and the picture."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_arm.setdefault(result["arm"], []).append(result)
    print("\n| arm | tokens | parameters | nats a token | spread over seeds |\n|---|---|---|---|---|")
    for letter, rows in sorted(by_arm.items()):
        losses = [row["loss"] for row in rows]
        spread = f"{max(losses) - min(losses):.3f} of {len(losses)}" if len(losses) > 1 else ""
        sizes = f"{rows[0]['tokens']:,} | {rows[0]['parameters']:,}"
        print(f"| {letter} | {sizes} | {statistics.mean(losses):.3f} | {spread} |")
    if {"A", "F"} <= by_arm.keys():
        gain = statistics.mean(r["loss"] for r in by_arm["A"]) - statistics.mean(r["loss"] for r in by_arm["F"])
        print(f"\nF beats A by {gain:.3f} nats at equal tokens.")
    _multiplier(by_arm)
    _draw(by_arm, output / "minitron.png")


def _multiplier(by_arm: dict[str, list[dict[str, Any]]]) -> None:
    """Tokens at which training from scratch reaches F's loss, over F's; from the longest scratch run."""
    scratch = [row for letter in ("A", "B", "L") for row in by_arm.get(letter, [])]
    if "F" not in by_arm or not scratch:
        return
    goal = statistics.mean(row["loss"] for row in by_arm["F"])
    longest = max(scratch, key=lambda row: row["tokens"])
    reached = next((tokens for tokens, loss in longest["curve"] if loss <= goal), None)
    tokens = by_arm["F"][0]["tokens"]
    if reached is None:
        last = longest["curve"][-1][0]
        print(f"Token multiplier: more than {last / tokens:.1f} ({longest['arm']} had not reached F's loss by then).")
    else:
        print(
            f"Token multiplier: {reached / tokens:.1f} (arm {longest['arm']} reaches F's loss at {reached:,} tokens)."
        )


def _draw(by_arm: dict[str, list[dict[str, Any]]], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, (letter, rows) in enumerate(sorted(by_arm.items())):
        for row in rows:
            tokens, losses = zip(*row["curve"], strict=True)
            label = letter if row is rows[0] else None
            axes.plot(
                [max(t, BATCH_TOKENS) / 1e6 for t in tokens], losses, color=f"C{number}", label=label, linewidth=1.3
            )
    axes.set(title="students of one size", xlabel="million tokens", ylabel="nats a token, held-out books", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Train the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, default=embedded_model_path(in_16_bits=True))
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--teacher-tokens", type=int, default=8_000_000, help="what L gets on top")
    parser.add_argument("--arms", default=ARMS)
    arguments = parser.parse_args()
    experiment = Experiment(
        arguments.data, arguments.output, arguments.teacher, arguments.tokens, arguments.teacher_tokens
    )
    results = []
    for arm in plan_arms(experiment, arguments.arms):
        results.append(experiment.run(arm))
        if not math.isfinite(results[-1]["loss"]):
            raise SystemExit(f"{arm.name} diverged")
    report(results, arguments.output)


if __name__ == "__main__":
    main()
