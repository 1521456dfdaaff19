"""Exact look-ups of random values in the prompt: the probes that training watches."""

from importlib import util

from understudy.evaluation.intervals import share_figure
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Figure, Outcome, Progress

__all__ = ["Lookups"]

_PER_KIND = 40
_MAX_PARAMETERS = 2_000_000_000  # float32 in PyTorch: 8 GB


class Lookups:
    """`training.metrics.LookupProbes` on a finished model; computed by PyTorch in float32."""

    name = "lookups"
    method = (
        f"{_PER_KIND} generated dialogues of each kind whose last answer holds a random value from the prompt; "
        "right is a value of which every token is the model's first choice, given the answer's true beginning. By "
        "PyTorch, in float32."
    )
    version = 1
    needs = ()
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:
        """See `Task`."""
        if util.find_spec("torch") is None:
            return "it needs PyTorch: pip install 'understudy[workshop]'"
        if subject.files.config.num_parameters > _MAX_PARAMETERS:
            return f"a model of more than {_MAX_PARAMETERS:,} parameters would take too much memory in float32"
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        import torch

        from understudy.training.folder import read_lm
        from understudy.training.metrics import LookupProbes

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, files = read_lm(subject.path, device=device)
        model.eval()
        per_kind = min(_PER_KIND, subject.limit or _PER_KIND)
        probes = LookupProbes(files.tokenizer, seed=subject.seed + 7_000_001, per_kind=per_kind)
        rates = probes.rates(model, autocast=torch.autocast(device, enabled=False))
        progress(1, 1)
        counts = probes.counts
        figures: list[Figure] = []
        for kind, rate in rates.items():
            right = round(rate * counts[kind])
            results = [True] * right + [False] * (counts[kind] - right)
            figures += share_figure(f"lookups.{kind}", f"exact look-ups: {kind}", results)
        return Outcome(figures=tuple(figures), settings={"per_kind": per_kind, "device": device})
