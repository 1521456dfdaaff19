"""What a model weighs, on disk and in memory."""

from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Figure, Outcome, Progress

__all__ = ["Size"]


class Size:
    """Bytes of file and memory, bits a weight."""

    name = "size"
    method = (
        "Bytes of the weight files; stored bits of all tensors by the number of parameters; what the runtime's "
        "backend holds: weights, and keys and values of a full context. The memory-mapped input table is counted "
        "apart."
    )
    version = 1
    needs = ()
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:  # noqa: ARG002 (as the protocol says)
        """See `Task`."""
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        files, memory = subject.files, subject.backend.memory()
        config = files.config
        stored = 8 * sum(weight.num_bytes for weight in files.weights.values())
        cache = memory.cache_bytes_per_token * config.max_position_embeddings
        progress(1, 1)
        rows = (
            ("size.parameters", "parameters", float(config.num_parameters), ""),
            ("size.file", "size of the weight files", float(files.file_bytes), "bytes"),
            ("size.bits_per_weight", "bits a weight", stored / config.num_parameters, "bits"),
            ("size.weights", "weights in memory", float(memory.weight_bytes), "bytes"),
            ("size.mapped", "weights mapped from the file", float(memory.mapped_bytes), "bytes"),
            ("size.cache", "keys and values of a full context", float(cache), "bytes"),
        )
        return Outcome(
            figures=tuple(Figure(name=n, label=said, value=v, unit=u, better="lower") for n, said, v, u in rows),
            settings={"context_tokens": config.max_position_embeddings, "backend": subject.backend.name},
        )
