"""The shape of a Nemotron model, read from every spelling met in the wild."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from understudy.errors import ModelFileError

__all__ = ["NemotronConfig"]

_MAX_DIM = 1 << 24
_ACTIVATIONS = ("relu2", "squared-relu", "squared_relu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NemotronConfig:
    """Hyper-parameters of a `NemotronForCausalLM` checkpoint, in Hugging Face's words.

    Shapes use the letters D hidden_size, F intermediate_size, N num_attention_heads,
    K num_key_value_heads, H head_dim, V vocab_size.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 4096
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 0.5
    tie_word_embeddings: bool = False
    bos_token_id: int = 2
    eos_token_id: int = 3
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_DIM:
                raise ModelFileError(f"config: {name} must be a whole number from 1 to {_MAX_DIM}, got {value!r}.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelFileError(
                f"config: num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})."
            )
        if not 0.0 < self.partial_rotary_factor <= 1.0:
            raise ModelFileError(
                f"config: partial_rotary_factor must be above 0 and at most 1, got {self.partial_rotary_factor!r}."
            )
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ModelFileError(
                f"config: head_dim * partial_rotary_factor must give an even number from 2 up, got {self.rotary_dim}."
            )
        if not (math.isfinite(self.rope_theta) and self.rope_theta > 0):
            raise ModelFileError(f"config: rope_theta must be positive and finite, got {self.rope_theta!r}.")
        if not (math.isfinite(self.norm_eps) and self.norm_eps > 0):
            raise ModelFileError(f"config: norm_eps must be positive and finite, got {self.norm_eps!r}.")

    @property
    def rotary_dim(self) -> int:
        """Number of leading dimensions of each head that rope turns."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def num_parameters(self) -> int:
        """Number of weights, input and output tables included."""
        d, layers = self.hidden_size, self.num_hidden_layers
        heads = self.num_attention_heads + self.num_key_value_heads
        per_layer = 2 * d * self.head_dim * heads + 2 * d * self.intermediate_size + 4 * d
        tables = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return layers * per_layer + tables + 2 * d

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "NemotronConfig":
        """Read the dictionary of a `config.json`.

        Accepts `kv_channels` for `head_dim`, `rope_percent`/`rotary_percent` or `rope_parameters` (transformers 5)
        for the rotary share, and `layer_norm_eps`/`layernorm_epsilon` for `norm_eps`.

        Raises:
            ModelFileError: another architecture, or a value that is missing or out of range.
        """
        model_type = raw.get("model_type", "nemotron")
        if model_type != "nemotron":
            raise ModelFileError(
                f"config.json describes a {model_type!r} model; Understudy runs 'nemotron' (NemotronForCausalLM)."
            )
        activation = raw.get("hidden_act", "relu2")
        if activation not in _ACTIVATIONS:
            raise ModelFileError(f"config.json: hidden_act must be 'relu2' (squared ReLU), got {activation!r}.")
        for flag in ("attention_bias", "mlp_bias"):
            if raw.get(flag):
                raise ModelFileError(f"config.json: {flag} is set, but Nemotron models have no such bias.")
        rope = _rope_parameters(raw)
        heads = _required(raw, "num_attention_heads")
        hidden = _required(raw, "hidden_size")
        if not isinstance(heads, int) or heads < 1 or not isinstance(hidden, int):
            raise ModelFileError(f"config.json: bad num_attention_heads {heads!r} or hidden_size {hidden!r}.")
        eos = raw.get("eos_token_id", 3)
        return cls(
            vocab_size=_required(raw, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_required(raw, "intermediate_size"),
            num_hidden_layers=_required(raw, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=_first(raw, "num_key_value_heads", "num_query_groups", default=heads),
            head_dim=_first(raw, "head_dim", "kv_channels", default=hidden // heads),
            max_position_embeddings=_first(raw, "max_position_embeddings", default=4096),
            norm_eps=_number(_first(raw, "norm_eps", "layer_norm_eps", "layernorm_epsilon", default=1e-5), "norm_eps"),
            rope_theta=_number(rope["rope_theta"], "rope_theta"),
            partial_rotary_factor=_number(rope["partial_rotary_factor"], "partial_rotary_factor"),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            bos_token_id=_first(raw, "bos_token_id", default=2),
            eos_token_id=eos[0] if isinstance(eos, list) and eos else eos,
            pad_token_id=raw.get("pad_token_id"),
        )

    def to_hf(self) -> dict[str, Any]:
        """Write the dictionary of a `config.json` that transformers, vLLM and this project read."""
        fields = dataclasses.asdict(self)
        return {
            "architectures": ["NemotronForCausalLM"],
            "model_type": "nemotron",
            "hidden_act": "relu2",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "torch_dtype": "float32",
            **fields,
        }


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    nested = raw.get("rope_parameters") or {}
    if not isinstance(nested, Mapping):
        raise ModelFileError(f"config.json: rope_parameters must be an object, got {type(nested).__name__}.")
    kind = nested.get("rope_type", "default")
    scaling = raw.get("rope_scaling")
    if kind != "default" or scaling:
        raise ModelFileError(f"config.json: rope scaling ({scaling or kind!r}) is not supported; expected plain rope.")
    merged = {**raw, **nested}
    return {
        "rope_theta": _first(merged, "rope_theta", "rotary_base", default=10000.0),
        "partial_rotary_factor": _first(
            merged, "partial_rotary_factor", "rope_percent", "rotary_percent", "rotary_pct", default=0.5
        ),
    }


def _first(raw: Mapping[str, Any], *names: str, default: Any) -> Any:
    for name in names:
        if raw.get(name) is not None:
            return raw[name]
    return default


def _required(raw: Mapping[str, Any], name: str) -> Any:
    if raw.get(name) is None:
        raise ModelFileError(f"config.json: {name!r} is missing.")
    return raw[name]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelFileError(f"config.json: {name} must be a number, got {value!r}.")
    return float(value)
