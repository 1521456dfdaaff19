"""Where a teacher's opinions come from, and the teacher in this process."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from understudy.distillation.linear_kl import FullGoal, TopGoal, top_goal
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.training.model import NemotronLM, hf_names

__all__ = [
    "LocalTeacher",
    "Question",
    "Teacher",
    "TeacherFacts",
    "check_answer",
    "check_question",
    "tap_layer",
    "third_from_end",
    "to_goal",
    "vocabulary_hash",
]

LAYERS_FROM_END = 3
"""Whose output the cosine loss compares: the third layer from the end (Minitron)."""

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What must be known of a teacher before it is asked.

    Attributes:
        config: its shape.
        vocabulary: hash of its tokenizer's vocabulary, see `vocabulary_hash`.
        dtype: "bfloat16" or "float32": of its products, and of the states that it answers with.
    """

    config: NemotronConfig
    vocabulary: str
    dtype: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What a teacher is asked about each position.

    Attributes:
        top_k: the likeliest tokens only; None for the states, which stand for the whole distribution.
        temperature: of the loss, which the top k depend on.
        has_layer: whether the output of the third layer from the end is wanted, too.
    """

    top_k: int | None = None
    temperature: float = 1.0
    has_layer: bool = False

    @property
    def name(self) -> str:
        """Distinct for distinct answers, fit for a file's name."""
        form = f"top{self.top_k}-t{self.temperature:g}" if self.top_k else "states"
        return form + ("-layer" if self.has_layer else "")

    def shapes(self, facts: TeacherFacts, count: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Tensors of an answer on `count` positions."""
        states = DTYPES[facts.dtype]
        if self.top_k:
            out = {
                "values": ((count, self.top_k), torch.float32),
                "indices": ((count, self.top_k), torch.int32),
                "rest": ((count,), torch.float32),
            }
        else:
            out = {"states": ((count, facts.config.hidden_size), states)}
        if self.has_layer:
            out["layer"] = ((count, facts.config.hidden_size), states)
        return out


class Teacher(Protocol):
    """Answers about positions of a batch; in this process, in another one, or on disk.

    Attributes:
        facts: its shape and vocabulary.
    """

    facts: TeacherFacts

    def fingerprint(self) -> str:
        """Hash of its weights."""
        ...

    def table(self) -> Tensor:
        """(V, D_t) output table."""
        ...

    def answer(
        self, question: Question, token_ids: Tensor, chosen: Tensor, document_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What `question` asks, on n chosen positions, row by row.

        Args:
            question: decides which tensors come (`Question.shapes`).
            token_ids: (B, T) ids.
            chosen: (B, T) bool.
            document_ids: (B, T) for rows of several documents, see `NemotronLM.hidden`.

        Raises:
            DataError: the question does not fit the teacher.
        """
        ...

    def close(self) -> None:
        """Leave it; it cannot be asked any more."""
        ...


class LocalTeacher:
    """A frozen model in this process; its blocks are loaded when it is first asked.

    In bfloat16 the matrices are held as the products want them; input table, norms and residual stream stay float32.
    """

    def __init__(self, files: LoadedModel, *, device: torch.device | str = "cpu", dtype: str = "float32") -> None:
        self.facts = TeacherFacts(
            config=files.config, vocabulary=vocabulary_hash(files.tokenizer.definition), dtype=dtype
        )
        self._files, self._device = files, torch.device(device)
        self._model: NemotronLM | None = None
        self._table: Tensor | None = None

    def fingerprint(self) -> str:
        """See `Teacher`; reads all weights once."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.facts), sort_keys=True).encode())
        for name, weight in sorted(self._files.weights.items()):
            digest.update(f"{name} {weight.kind.name} {weight.shape}".encode())
            digest.update(weight.raw.data)
        return digest.hexdigest()

    def table(self) -> Tensor:
        """See `Teacher`; alone it takes no more memory than itself."""
        if self._model is not None:
            return self._model.lm_head.weight
        if self._table is None:
            tied = self.facts.config.tie_word_embeddings
            weight = self._files.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
            self._table = torch.from_numpy(weight.dense()).to(self._device, DTYPES[self.facts.dtype])
        return self._table

    @torch.no_grad()
    def answer(
        self, question: Question, token_ids: Tensor, chosen: Tensor, document_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See `Teacher`."""
        check_question(question, self.facts.config)
        if self._model is None:
            self._model, self._table = _load_frozen(self._files, self._device, DTYPES[self.facts.dtype]), None
        model, dtype = self._model, DTYPES[self.facts.dtype]
        autocast = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        chosen = chosen.to(self._device)
        with autocast, tap_layer(model, wanted=question.has_layer) as tapped:
            documents = document_ids if document_ids is None else document_ids.to(self._device)
            states = model.hidden(token_ids.to(self._device), documents)[chosen].to(dtype)
            out = {"states": states}
            if question.top_k:
                top = top_goal(states, self.table(), top_k=question.top_k, temperature=question.temperature)
                out = {"values": top.values, "indices": top.indices.int(), "rest": top.rest}
        if question.has_layer:
            out["layer"] = tapped[-1][chosen].to(dtype)
        return out

    def close(self) -> None:
        """See `Teacher`; frees the model."""
        self._model = self._table = None


def to_goal(answer: Mapping[str, Tensor], teacher: Teacher, device: torch.device) -> FullGoal | TopGoal:
    """A teacher's answer as `linear_kl` takes it."""
    if "states" in answer:
        return FullGoal(states=answer["states"].to(device), table=teacher.table().to(device))
    return TopGoal(
        values=answer["values"].to(device),
        indices=answer["indices"].to(device).long(),
        rest=answer["rest"].to(device),
        vocab_size=teacher.facts.config.vocab_size,
    )


def check_question(question: Question, config: NemotronConfig) -> None:
    """Refuse what the teacher cannot answer.

    Raises:
        DataError: too many tokens of the vocabulary, or too few layers.
    """
    if question.top_k and question.top_k >= config.vocab_size:
        raise DataError(
            f"top_k must be below the teacher's vocabulary of {config.vocab_size}, got {question.top_k}; leave it out "
            "to compare all tokens."
        )
    if question.has_layer:
        third_from_end(config)


def check_answer(
    answer: Mapping[str, Tensor], question: Question, facts: TeacherFacts, count: int, source: str
) -> None:
    """Refuse an answer of other tensors than were asked for.

    Raises:
        DataError: naming `source`.
    """
    wanted = question.shapes(facts, count)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in answer.items()}
    if found != wanted:
        raise DataError(
            f"{source} holds {found or 'nothing'}, but the teacher's answer should be {wanted}; delete it, or ask the "
            "teacher that this student was given."
        )
    top = answer.get("indices")
    if top is not None and top.numel() and not 0 <= int(top.min()) <= int(top.max()) < facts.config.vocab_size:
        raise DataError(f"{source} names tokens outside the vocabulary of {facts.config.vocab_size}; delete it.")


def third_from_end(config: NemotronConfig) -> int:
    """Index of the layer that the cosine loss compares.

    Raises:
        DataError: the model has fewer than three layers.
    """
    if config.num_hidden_layers < LAYERS_FROM_END:
        raise DataError(
            f"The cosine loss compares the third layer from the end, but a model has {config.num_hidden_layers} layers;"
            " set cosine_weight to 0."
        )
    return config.num_hidden_layers - LAYERS_FROM_END


@contextlib.contextmanager
def tap_layer(model: NemotronLM, *, wanted: bool) -> Iterator[list[Tensor]]:
    """Collect the residual stream (B, T, D) behind the third layer from the end while the context is open."""
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return
    layer = model.layers[third_from_end(model.config)]
    handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def vocabulary_hash(definition: Mapping[str, object]) -> str:
    """Hash of what a `tokenizer.json` says about the vocabulary."""
    return hashlib.sha256(json.dumps(definition["model"], sort_keys=True).encode()).hexdigest()


def _load_frozen(files: LoadedModel, device: torch.device, dtype: torch.dtype) -> NemotronLM:
    """Tensor by tensor, so that a large teacher never stands in memory twice."""
    with torch.device("meta"):
        model = NemotronLM(files.config)
    for name, parameter in list(model.named_parameters()):
        values = torch.cat([torch.from_numpy(files.weights[part].dense()) for part in hf_names(name)])
        held = dtype if parameter.dim() == 2 and name != "embed_tokens.weight" else torch.float32
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(values.to(device, held), requires_grad=False))
    if files.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.eval()
