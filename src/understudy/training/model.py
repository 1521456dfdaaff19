"""The Nemotron architecture in PyTorch, written for training: packed QKV, loss on chosen positions only."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from understudy.model.config import NemotronConfig
from understudy.training.cross_entropy import linear_cross_entropy
from understudy.training.segments import Segments, find_segments

__all__ = [
    "Block",
    "BlockStates",
    "LayerNorm1P",
    "NemotronLM",
    "from_hf_tensors",
    "hf_names",
    "rotary_tables",
    "state_from_hf",
    "to_hf_tensors",
]


class LayerNorm1P(nn.Module):
    """LayerNorm whose gain is `weight + 1`, so that weight decay pulls the gain to one."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm of the last dimension."""
        return F.layer_norm(x, x.shape[-1:], self.weight + 1.0, self.bias, self.eps)


@runtime_checkable
class _Adapted(Protocol):
    """A matrix with adapters beside it (`training.lora`)."""

    def merged_weight(self) -> Tensor:
        """What both compute together, as one matrix."""
        ...


class BlockStates(NamedTuple):
    """What flows through a block.

    Attributes:
        attention_input: (B, T, D), normed, feeds the q, k and v projections.
        heads: (B, T, N * H), feeds o_proj.
        mlp_input: (B, T, D), normed, feeds up_proj.
        neurons: (B, T, F), after the squared ReLU, feeds down_proj.
        after: (B, T, D), the residual stream behind the block.
    """

    attention_input: Tensor
    heads: Tensor
    mlp_input: Tensor
    neurons: Tensor
    after: Tensor


class Block(nn.Module):
    """Attention and squared-ReLU MLP, each behind its norm."""

    def __init__(self, config: NemotronConfig) -> None:
        super().__init__()
        d, h = config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, h
        self.rotary_dim = config.rotary_dim
        self.input_layernorm = LayerNorm1P(d, config.norm_eps)
        self.qkv_proj = nn.Linear(d, (self.num_heads + 2 * self.num_kv_heads) * h, bias=False)
        self.o_proj = nn.Linear(self.num_heads * h, d, bias=False)
        self.post_attention_layernorm = LayerNorm1P(d, config.norm_eps)
        self.up_proj = nn.Linear(d, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments | None = None) -> Tensor:
        """Residual stream behind the block, (B, T, D) to (B, T, D)."""
        return self.states(x, cos, sin, segments).after

    def states(self, x: Tensor, cos: Tensor, sin: Tensor, segments: Segments | None = None) -> BlockStates:
        """All inner states for a residual stream of (B, T, D)."""
        attention_input = self.input_layernorm(x)
        heads = self._attention(self.qkv_proj(attention_input), cos, sin, segments)
        x = x + self.o_proj(heads)
        mlp_input = self.post_attention_layernorm(x)
        neurons = F.relu(self.up_proj(mlp_input)).square()
        return BlockStates(attention_input, heads, mlp_input, neurons, x + self.down_proj(neurons))

    def _attention(self, qkv: Tensor, cos: Tensor, sin: Tensor, segments: Segments | None) -> Tensor:
        b, t, _ = qkv.shape
        qkv = qkv.view(b, t, -1, self.head_dim)
        qk, v = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        r, half = self.rotary_dim, self.rotary_dim // 2
        rotated = torch.cat((-qk[..., half:r], qk[..., :half]), -1)
        qk = torch.cat((qk[..., :r] * cos + rotated * sin, qk[..., r:]), -1)
        sizes = segments.sizes if segments else None
        if sizes:  # all rows end to end, to be cut into documents
            qk, v = qk.flatten(0, 1)[None], v.flatten(0, 1)[None]
        q, k = qk.transpose(1, 2).split((self.num_heads, self.num_kv_heads), dim=1)
        v = v.transpose(1, 2)
        if sizes:
            parts = zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True)
            attend = partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
            out = torch.cat([attend(*part) for part in parts], dim=2)
        elif segments:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=segments.mask, enable_gqa=True)
        elif qkv.device.type == "cpu":
            out = _short_attention(q, k, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(b, t, self.num_heads * self.head_dim)


def _short_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of (B, N, T, H) on (B, K, T, H): on CPUs twice as fast as the fused one up to T = 512."""
    b, n, t, h = q.shape
    num_kv = k.shape[1]
    q = (q * h**-0.5).reshape(b * num_kv, n // num_kv * t, h)
    scores = torch.bmm(q, k.reshape(b * num_kv, t, h).transpose(1, 2)).view(b * num_kv, n // num_kv, t, t)
    mask = torch.full((t, t), float("-inf"), dtype=scores.dtype, device=q.device).triu(1)
    probs = (scores + mask).softmax(-1).to(v.dtype).view(b * num_kv, -1, t)
    return torch.bmm(probs, v.reshape(b * num_kv, t, h)).view(b, n, t, h)


def rotary_tables(config: NemotronConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of (T, 1, R) for positions 0 to `length` - 1, float32."""
    r = config.rotary_dim
    steps = torch.arange(0, r, 2, device=device, dtype=torch.float32) / r
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), config.rope_theta**-steps)
    twice = torch.cat((angles, angles), -1)[:, None]
    return twice.cos(), twice.sin()


class NemotronLM(nn.Module):
    """`NemotronForCausalLM` for training."""

    def __init__(self, config: NemotronConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = LayerNorm1P(config.hidden_size, config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self._init_weights()

    def _init_weights(self) -> None:
        """Unit-scale embeddings, silent output projections: at the start the residual stream is the token itself.

        With GPT-2's 0.02 a rare token drowns in what the first blocks add, and copying it from the prompt is not
        learnt (docs/experiments.md).
        """
        scale = self.config.hidden_size**-0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif name == "lm_head.weight":
                nn.init.normal_(parameter, std=0.002)
            elif name == "embed_tokens.weight":
                nn.init.normal_(parameter, std=0.02 if self.config.tie_word_embeddings else 1.0)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=scale)

    def hidden(self, token_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Normed last states: (B, T) ids to (B, T, D).

        Args:
            token_ids: (B, T) ids.
            document_ids: (B, T), for rows of several documents: tokens with the same number in a row are one document,
                see only each other, and count their positions from 0.
        """
        x = self.embed_tokens(token_ids)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        cos, sin = (table.to(dtype) for table in rotary_tables(self.config, token_ids.shape[1], x.device))
        segments = None
        if document_ids is not None:
            segments = find_segments(document_ids)
            cos, sin = cos[segments.positions], sin[segments.positions]
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, segments, use_reentrant=False)
            else:
                x = layer(x, cos, sin, segments)
        out: Tensor = self.norm(x)
        return out

    def forward(self, token_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of ids (B, T)."""
        out: Tensor = self.lm_head(self.hidden(token_ids, document_ids))
        return out

    def loss_sum(self, token_ids: Tensor, weights: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Weighted sum of next-token cross-entropies, in nats.

        Only positions whose weight is not zero reach the vocabulary-wide output layer.

        Args:
            token_ids: (B, T + 1) ids.
            weights: (B, T) weight of predicting `token_ids[:, 1:]`.
            document_ids: (B, T), see `hidden`.
        """
        hidden = self.hidden(token_ids[:, :-1], document_ids)
        chosen = weights > 0
        return linear_cross_entropy(hidden[chosen], self.lm_head.weight, token_ids[:, 1:][chosen], weights[chosen])


def to_hf_tensors(model: NemotronLM) -> dict[str, Tensor]:
    """Tensors under the names of Hugging Face's `NemotronForCausalLM`, adapters merged into them."""
    out: dict[str, Tensor] = {}
    merged = {f"{n}.weight": m.merged_weight() for n, m in model.named_modules() if isinstance(m, _Adapted)}
    for name, value in {**model.state_dict(), **merged}.items():
        if _is_left_out(name, model.config):
            continue
        parts = hf_names(name)
        rows = value.split(_qkv_rows(model.config)) if len(parts) > 1 else (value,)
        out.update({part: block.contiguous() for part, block in zip(parts, rows, strict=True)})
    return out


def from_hf_tensors(model: NemotronLM, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors with Hugging Face names into the model; the inverse of `to_hf_tensors`.

    Raises:
        KeyError: a tensor is missing.
    """
    model.load_state_dict(state_from_hf(model, tensors))


def state_from_hf(model: NemotronLM, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dictionary of a model from tensors with Hugging Face names.

    Raises:
        KeyError: a tensor is missing.
    """
    state = {
        name: torch.cat([tensors[part] for part in hf_names(name)])
        for name in model.state_dict()
        if not _is_left_out(name, model.config)
    }
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state["embed_tokens.weight"]
    return state


def hf_names(name: str) -> list[str]:
    """Hugging Face's name of a parameter of `NemotronLM`; three for the packed projection, whose rows are stacked."""
    if name == "lm_head.weight":
        return [name]
    if ".qkv_proj." in name:
        return ["model." + name.replace("qkv_proj", f"self_attn.{part}_proj") for part in "qkv"]
    for short, group in (("o_proj", "self_attn"), ("up_proj", "mlp"), ("down_proj", "mlp")):
        if f".{short}." in name:
            return ["model." + name.replace(f".{short}.", f".{group}.{short}.")]
    return ["model." + name]


def _is_left_out(name: str, config: NemotronConfig) -> bool:
    return ".lora_" in name or (name == "lm_head.weight" and config.tie_word_embeddings)


def _qkv_rows(config: NemotronConfig) -> list[int]:
    return [heads * config.head_dim for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)]
