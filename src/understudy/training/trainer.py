"""The training loop: resumable, watched, reproducible."""

import csv
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data.sources import read_texts
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.tokenizer import Tokenizer
from understudy.training.batches import Batcher, MicroBatch
from understudy.training.corpus import open_corpus
from understudy.training.metrics import LookupProbes, bits_per_byte
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.muon import Muon
from understudy.training.objective import CrossEntropy, Objective
from understudy.training.recipe import OptimizerRecipe, Recipe, StageRecipe

__all__ = ["Progress", "Trainer"]

_EVALUATION_BYTES = 120_000
_LOSS_EVERY = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a run after a step, for progress bars and logs."""

    step: int
    total_steps: int
    stage: str
    loss: float
    tokens_per_s: float
    seconds_left: float
    losses: dict[str, float]


class Trainer:
    """Trains the model of a recipe; `run` yields progress and may be stopped and started again at any moment."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        data: Path,
        output: Path,
        tokenizer: Tokenizer,
        report: Callable[[str], None],
        objective: Objective | None = None,
    ) -> None:
        self.recipe, self.output, self.tokenizer = recipe, output, tokenizer
        self.objective = objective or CrossEntropy()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(recipe.seed)
        self.model = NemotronLM(recipe.model).to(self.device)
        self.optimizers = _optimizers(self.model, recipe.optimizer)
        self.step = 0
        self._report = report
        eos = recipe.model.eos_token_id
        corpora = [
            open_corpus(s, data=data, cache=output / "corpora", tokenizer=tokenizer, eos=eos, report=report)
            for s in recipe.sources
        ]
        self._batcher = Batcher(corpora, seed=recipe.seed, pad=recipe.model.pad_token_id or 0)
        self._probes = LookupProbes(tokenizer, seed=recipe.seed + 1_000_003, per_kind=recipe.probes_per_kind)
        self._validation = "\n\n".join(t[:_EVALUATION_BYTES] for t in read_texts(recipe.validation, data))
        self._bf16 = self.device.type == "cuda" or _cpu_has_fast_bf16()

    @property
    def autocast(self) -> torch.autocast:
        """bfloat16 products where the machine has them."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def run(self) -> Iterator[Progress]:
        """Train from the current step to the end of the last stage."""
        total, began, first, tokens = self.recipe.total_steps, time.monotonic(), self.step, 0
        recent: list[dict[str, float]] = []
        while self.step < total:
            stage = _stage_at(self.recipe, self.step)
            batch = self._batcher.draw(stage, self.step)
            losses = self._train_step(batch)
            self.step += 1
            tokens += sum(b.token_ids.size for b in batch)
            elapsed = time.monotonic() - began
            loss = sum(b.share * losses[b.source] for b in batch)
            recent.append({"loss": loss, **losses})
            if self.step % _LOSS_EVERY == 0:
                self._append("losses.csv", {"step": self.step, "stage": stage.name, **_means(recent)})
                recent.clear()
            if self.step % self.recipe.evaluate_every == 0 or self.step == total:
                self._log(stage)
            if self.step % self.recipe.checkpoint_every == 0 or self.step == total:
                self.save()
            yield Progress(
                step=self.step,
                total_steps=total,
                stage=stage.name,
                loss=loss,
                tokens_per_s=tokens / elapsed,
                seconds_left=elapsed / (self.step - first) * (total - self.step),
                losses=losses,
            )

    def _train_step(self, batch: list[MicroBatch]) -> dict[str, float]:
        losses = {}
        for part in batch:
            ids, weights = torch.from_numpy(part.token_ids), torch.from_numpy(part.weights)
            with self.autocast:
                total = self.objective.loss_sum(self.model, ids.to(self.device), weights.to(self.device))
            mean = total / float(part.weights.sum())
            losses[part.source] = float(mean.detach())
            (mean * part.share).backward()
        if not all(math.isfinite(v) for v in losses.values()):
            raise DataError(f"The loss is not finite at step {self.step}: {losses}; lower the learning rates.")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        scale = _learning_rate_scale(self.recipe.optimizer, self.step, self.recipe.total_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return losses

    def evaluate(self, *, length: int = 256) -> dict[str, float]:
        """Bits per byte on the validation text and look-up rates."""
        self.model.eval()
        rates = self._probes.rates(self.model, autocast=self.autocast)
        bpb = bits_per_byte(
            self.model, self.tokenizer, self._validation, length=length, autocast=self.autocast, max_rows=64
        )
        self.model.train()
        return {"bits_per_byte": bpb, **{f"lookup_{k}": v for k, v in rates.items()}}

    def _log(self, stage: StageRecipe) -> None:
        figures = self.evaluate()
        self._append("evaluations.csv", {"step": self.step, "stage": stage.name, **figures})
        shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self._report(f"step {self.step} ({stage.name}): {shown}")

    def _append(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to a CSV file in long form, one line a figure, so that mixtures may change between stages."""
        with (self.output / name).open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for figure, value in row.items():
                if figure not in ("step", "stage"):
                    writer.writerow([row["step"], row["stage"], figure, f"{value:.5f}"])

    def save(self) -> None:
        """Write the checkpoint (model, optimizers, step) atomically."""
        self.output.mkdir(parents=True, exist_ok=True)
        state: dict[str, Any] = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        part = self.output / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.output / "checkpoint.pt")

    def start_from(self, files: LoadedModel) -> None:
        """Begin with the weights of a model file or folder in place of random ones.

        Raises:
            DataError: it has another shape or vocabulary than the recipe's model.
        """
        shape = dataclasses.replace(self.recipe.model, max_position_embeddings=files.config.max_position_embeddings)
        if shape != files.config or files.tokenizer.definition["model"] != self.tokenizer.definition["model"]:
            raise DataError(
                f"{files.path} has another shape or vocabulary than the recipe's model; give the recipe's [model] the "
                "values of its config.json, and start in an empty output folder, which then takes its tokenizer."
            )
        from_hf_tensors(self.model, {name: torch.from_numpy(w.dense()) for name, w in files.weights.items()})

    def resume(self) -> bool:
        """Go on from the checkpoint in the output folder, if there is one."""
        path = self.output / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
                optimizer.load_state_dict(saved)
                for group, own in zip(optimizer.param_groups, groups, strict=True):
                    group.update(own)  # the recipe's rates, which may have changed, not the checkpoint's
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"{path} belongs to another recipe; move it away or choose another output.") from error
        self.step = int(state["step"])
        return True


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = {name for row in rows for name in row}
    return {n: sum(r[n] for r in rows if n in r) / sum(n in r for r in rows) for n in sorted(names)}


def _stage_at(recipe: Recipe, step: int) -> StageRecipe:
    """The stage that a step belongs to."""
    for stage in recipe.stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return recipe.stages[-1]


def _learning_rate_scale(recipe: OptimizerRecipe, step: int, total: int) -> float:
    """Warm-up, plateau, then linear decay over the last `decay_share` of the run."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    decay = min(1.0, (total - step) / max(1.0, recipe.decay_share * total))
    return warm * (recipe.final_lr_share + (1 - recipe.final_lr_share) * decay)


def _optimizers(model: NemotronLM, recipe: OptimizerRecipe) -> list[torch.optim.Optimizer]:
    matrices: list[Tensor] = []
    others: list[dict[str, Any]] = []
    config = model.config
    n, k, h = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    for name, parameter in model.named_parameters():
        if name.startswith("layers.") and parameter.dim() == 2:
            matrices.append(parameter)
        else:
            lr = recipe.embedding_lr if name == "embed_tokens.weight" else recipe.adam_lr
            others.append({"params": [parameter], "lr": lr})
        if "qkv_proj" in name:
            parameter.row_blocks = [n * h, k * h, k * h]  # type: ignore[attr-defined]
    muon = Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.muon_weight_decay)  # type: ignore[arg-type]
    adam = torch.optim.AdamW(others, lr=recipe.adam_lr, betas=recipe.adam_betas, weight_decay=0.0, fused=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adam]


def _cpu_has_fast_bf16() -> bool:
    return bool(torch.backends.cpu.get_cpu_capability() == "AVX512") and _cpu_flag("avx512_bf16")


def _cpu_flag(flag: str) -> bool:
    try:
        return flag in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False
