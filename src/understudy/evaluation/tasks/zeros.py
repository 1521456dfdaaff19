"""How many neurons of each layer's squared ReLU are zero: weights that decoding need not read."""

from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Figure, Outcome, Progress
from understudy.model.native_backend import CpuBackend, why_not_native
from understudy.npc.session import Session
from understudy.npc.world import default_world

__all__ = ["ZeroNeurons"]

_LINE = "Good evening! Who are you, and what do you do here?"


class ZeroNeurons:
    """The census of `understudy doctor --census`, over all characters of the sample world."""

    name = "zeros"
    method = (
        "Share of MLP neurons whose squared ReLU is exactly zero, counted by the native kernels while they read "
        "the prompts of the sample world's characters (in the package, so the same for every model)."
    )
    version = 1
    needs = ()
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:
        """See `Task`."""
        return None if isinstance(subject.backend, CpuBackend) else why_not_native(subject.files.config)

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        backend, model, world = subject.backend, subject.resting_model, default_world()
        assert isinstance(backend, CpuBackend)
        longest = subject.files.config.max_position_embeddings
        sums, num_tokens = [0.0] * subject.files.config.num_hidden_layers, 0
        characters = world.characters[: subject.limit]
        for number, card in enumerate(characters, 1):
            talk = Session(card, world).conversation(_LINE, max_prompt_tokens=longest, count=model.count)
            ids = model.encode(talk)
            sums = [s + len(ids) * share for s, share in zip(sums, backend.zero_shares(ids), strict=True)]
            num_tokens += len(ids)
            progress(number, len(characters))
        shares = [total / num_tokens for total in sums]
        layers = [
            Figure(
                name=f"zeros.layer_{number:02}", label=f"zero neurons, layer {number}", value=share, unit="share",
                better="higher", count=num_tokens, is_detail=True,
            )
            for number, share in enumerate(shares)
        ]  # fmt: skip
        mean = Figure(
            name="zeros.all",
            label="zero neurons, all layers",
            value=sum(shares) / len(shares),
            unit="share",
            better="higher",
            count=num_tokens,
        )
        return Outcome(figures=(mean, *layers), settings={"characters": len(characters)})
