"""The training loop: resumable, watched, reproducible."""

import contextlib
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
from understudy.training.held_out import HeldOutDialogues
from understudy.training.lora import adapter_state, attach_lora, hash_weights
from understudy.training.metrics import LookupProbes, bits_per_byte
from understudy.training.model import NemotronLM, state_from_hf
from understudy.training.objective import CrossEntropy, Objective
from understudy.training.optimizers import learning_rate_scale, make_optimizers
from understudy.training.precision import has_fast_bf16
from understudy.training.recipe import Recipe, StageRecipe
from understudy.training.sharding import gather_state, join_ranks, place_like, place_state, shard, whole

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
    """Trains the model of a recipe; `run` yields progress and may be stopped and started again at any moment.

    Under `torchrun` each process makes one, with the same arguments; together they train as one would.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        data: Path,
        output: Path,
        tokenizer: Tokenizer,
        report: Callable[[str], None],
        objective: Objective | None = None,
        corpora: Path | None = None,
    ) -> None:
        self.recipe, self.output, self.tokenizer = recipe, output, tokenizer
        if recipe.preference and objective is None:
            raise DataError("Pairs of answers need a model to begin with; run understudy finetune RECIPE --model PATH.")
        self.objective = objective or CrossEntropy()
        self.ranks = join_ranks()
        self.device = self.ranks.device
        torch.manual_seed(recipe.seed)
        self.model = NemotronLM(recipe.model).to(self.device)
        self.model.activation_checkpointing = recipe.activation_checkpointing
        self._base = ""  # hash of the frozen weights that adapters belong to
        if recipe.lora:
            attach_lora(self.model, recipe.lora)
        companion = self.objective.companion
        extra = [companion.to(self.device)] if companion else []
        shard(self.model, self.ranks, *extra)
        self.optimizers = make_optimizers(
            self.model, recipe.optimizer, others=[p for module in extra for p in module.parameters()]
        )
        self.step = 0
        self._recent: list[dict[str, float]] = []  # losses since the last row of losses.csv
        self._report = report if self.ranks.is_first else _say_nothing
        eos = recipe.model.eos_token_id
        cache = corpora or output / "corpora"
        with self.ranks.first_alone():
            opened = [
                open_corpus(s, data=data, cache=cache, tokenizer=tokenizer, eos=eos, report=self._report)
                for s in recipe.sources
            ]
        self._batcher = Batcher(opened, seed=recipe.seed, pad=recipe.model.pad_token_id or 0)
        per_kind = recipe.probes_per_kind
        self._probes = LookupProbes(tokenizer, seed=recipe.seed + 1_000_003, per_kind=per_kind) if per_kind else None
        texts = read_texts(recipe.validation, data) if recipe.validation else ()
        self._validation = "\n\n".join(t[:_EVALUATION_BYTES] for t in texts)
        self._held_out = HeldOutDialogues(
            opened, length=max(s.length for s in recipe.stages), pad=recipe.model.pad_token_id or 0
        )
        self._bf16 = recipe.dtype == "bfloat16" or (recipe.dtype == "auto" and has_fast_bf16(self.device))

    @property
    def autocast(self) -> torch.autocast:
        """The recipe's type of products."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def run(self) -> Iterator[Progress]:
        """Train from the current step to the end of the last stage."""
        if self.recipe.lora and not self._base:
            raise DataError("Adapters need a model to stand beside; run understudy finetune RECIPE --model PATH.")
        total, began, first, tokens = self.recipe.total_steps, time.monotonic(), self.step, 0
        while self.step < total:
            stage = _stage_at(self.recipe, self.step)
            batch = self._batcher.draw(stage, self.step)
            losses = self._train_step(batch)
            self.step += 1
            tokens += sum(b.token_ids.size for b in batch)
            elapsed = time.monotonic() - began
            loss = sum(b.share * losses[b.source] for b in batch)
            self._recent.append({"loss": loss, **losses})
            if self.step % _LOSS_EVERY == 0:
                self._append("losses.csv", {"step": self.step, "stage": stage.name, **_means(self._recent)})
                self._recent.clear()
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
            own = self.ranks.share(part)
            ids, weights = (torch.from_numpy(x).to(self.device) for x in (own.token_ids, own.weights))
            documents = None if own.document_ids is None else torch.from_numpy(own.document_ids).to(self.device)
            with self.autocast:
                total = self.objective.loss_sum(self.model, ids, weights, documents)
            mean = total / self.objective.count(part)
            losses[part.source] = float(mean.detach())
            # FSDP averages gradients over the processes, where the sum is wanted.
            (mean * (part.share * self.ranks.count)).backward()
        losses = self.ranks.sum(losses)
        norm = torch.nn.utils.clip_grad_norm_(self._trained(), self.recipe.optimizer.clip_norm)
        self._check_finite({**losses, "gradient": float(whole(norm))})
        scale = learning_rate_scale(self.recipe.optimizer, self.step, self.recipe.total_steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return losses

    def _trained(self) -> list[torch.nn.Parameter]:
        extra = self.objective.companion
        return [*self.model.parameters(), *(extra.parameters() if extra else ())]

    def _check_finite(self, figures: dict[str, float]) -> None:
        """Stop before a step that would spoil the weights."""
        if all(math.isfinite(v) for v in figures.values()):
            return
        path = self.output / "checkpoint.pt"
        state = f"{path} is kept as it was saved before" if path.exists() else "nothing was saved yet"
        raise DataError(
            f"The loss or its gradient is not finite at step {self.step}: {figures}; {state}. Lower the recipe's "
            "learning rates and give the same command again: it goes on from there."
        )

    def evaluate(self, *, length: int = 256) -> dict[str, float]:
        """Bits per byte on the validation text, loss on held-out dialogues, look-up rates; what the recipe asks for."""
        self.model.eval()
        figures = {}
        if self._validation:
            figures["bits_per_byte"] = bits_per_byte(
                self.model, self.tokenizer, self._validation, length=length, autocast=self.autocast, max_rows=64
            )
        figures |= self._held_out.losses(self.model, self.objective, autocast=self.autocast)
        if self._probes:
            rates = self._probes.rates(self.model, autocast=self.autocast)
            figures |= {f"lookup_{kind}": rate for kind, rate in rates.items()}
        self.model.train()
        return figures

    def _log(self, stage: StageRecipe) -> None:
        figures = self.evaluate()
        self._append("evaluations.csv", {"step": self.step, "stage": stage.name, **figures})
        shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self._report(f"step {self.step} ({stage.name}): {shown}")

    def _append(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to a CSV file in long form, one line a figure, so that mixtures may change between stages."""
        if not self.ranks.is_first:
            return
        with (self.output / name).open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for figure, value in row.items():
                if figure not in ("step", "stage"):
                    writer.writerow([row["step"], row["stage"], figure, f"{value:.5f}"])

    def save(self) -> None:
        """Write the checkpoint (model, optimizers, step) atomically, whole tensors whatever the number of processes.

        Raises:
            DataError: the disk refuses; the last checkpoint is kept.
        """
        companion = self.objective.companion
        state: dict[str, Any] = {
            "step": self.step,
            "recent": self._recent,
            "model": gather_state(self._learnt(), self.ranks),
            "base": self._base,
            "optimizers": [gather_state(o.state_dict(), self.ranks) for o in self.optimizers],
        }
        if companion:
            state["companion"] = gather_state(companion.state_dict(), self.ranks)
        if self.ranks.is_first:
            _write_checkpoint(self.output, state)

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
        tensors = {name: torch.from_numpy(w.dense()) for name, w in files.weights.items()}
        place_state(self.model, {**self.model.state_dict(), **state_from_hf(self.model, tensors)})
        if self.recipe.lora:
            self._base = hash_weights(files)

    def _learnt(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the model: adapters alone, where there are any."""
        return adapter_state(self.model) if self.recipe.lora else self.model.state_dict()

    def resume(self) -> bool:
        """Go on from the checkpoint in the output folder, if there is one.

        Raises:
            DataError: it belongs to another recipe or objective.
        """
        path = self.output / "checkpoint.pt"
        if not path.exists():
            self._forget_rows()  # of a run that was stopped before its first checkpoint
            return False
        place = self.device if self.ranks.count == 1 else "cpu"
        state = torch.load(path, map_location=place, weights_only=True)
        if state.get("base", "") not in ("", self._base):
            raise DataError(f"{path} holds adapters of another model; start from that model, or choose another output.")
        try:
            if state["model"].keys() != self._learnt().keys():
                raise KeyError("model")
            place_state(self.model, {**self.model.state_dict(), **state["model"]})
            if self.objective.companion:
                place_state(self.objective.companion, state["companion"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                _place_optimizer(optimizer, saved)
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"{path} belongs to another recipe; move it away or choose another output.") from error
        self.step = int(state["step"])
        self._recent = list(state.get("recent", ()))
        self._forget_rows()
        return True

    def _forget_rows(self) -> None:
        """Take rows of steps behind the checkpoint out of the CSV files: they come again."""
        for path in (self.output / "losses.csv", self.output / "evaluations.csv"):
            if not (self.ranks.is_first and path.exists()):
                continue
            rows = [row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
            part = path.with_suffix(".part")
            part.write_bytes(b"".join(row for row in rows if int(row.split(b",", 1)[0]) <= self.step))
            part.replace(path)


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


def _write_checkpoint(output: Path, state: dict[str, Any]) -> None:
    part = output / "checkpoint.part"
    try:
        output.mkdir(parents=True, exist_ok=True)
        torch.save(state, part)
        part.replace(output / "checkpoint.pt")
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            part.unlink()
        raise DataError(
            f"{output / 'checkpoint.pt'} cannot be written ({error}); the checkpoint before it is kept. Make room and "
            "give the same command again."
        ) from error


def _place_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, but not its rates: the recipe may have changed them."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    numbers = [n for g in saved["param_groups"] for n in g["params"]]
    owner = dict(zip(numbers, parameters, strict=True))
    state = {  # cut one by one, so that no process ever holds the whole state on its device
        number: {k: place_like(v, owner[number]) if _is_like(v, owner[number]) else v for k, v in values.items()}
        for number, values in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": state})
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update(own)


def _is_like(value: Any, parameter: Tensor) -> bool:
    return torch.is_tensor(value) and value.shape == parameter.shape


def _say_nothing(text: str) -> None:
    """What the other processes report, the first one does."""
