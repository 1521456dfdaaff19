"""The tensors of a Nemotron model: Hugging Face's names, GGUF's names, shapes."""

from collections.abc import Iterable, Mapping

from understudy.errors import ModelFileError
from understudy.model.config import NemotronConfig
from understudy.model.weights import Weight

__all__ = ["check_tensors", "expected_shapes", "from_gguf_names", "gguf_names"]


def expected_shapes(config: NemotronConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by Hugging Face's name; matrices are (outputs, inputs)."""
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    n, k = config.num_attention_heads * h, config.num_key_value_heads * h
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, d)}
    for index in range(config.num_hidden_layers):
        layer = {
            "input_layernorm.weight": (d,),
            "input_layernorm.bias": (d,),
            "self_attn.q_proj.weight": (n, d),
            "self_attn.k_proj.weight": (k, d),
            "self_attn.v_proj.weight": (k, d),
            "self_attn.o_proj.weight": (d, n),
            "post_attention_layernorm.weight": (d,),
            "post_attention_layernorm.bias": (d,),
            "mlp.up_proj.weight": (f, d),
            "mlp.down_proj.weight": (d, f),
        }
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (d,), "model.norm.bias": (d,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, d)
    return shapes


_GGUF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GGUF_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_names(names: Iterable[str]) -> dict[str, str]:
    """GGUF's name for each of Hugging Face's."""
    out = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if stem in _GGUF_TOP:
            out[name] = f"{_GGUF_TOP[stem]}.{suffix}"
        else:
            _, _, index, part = stem.split(".", 3)
            out[name] = f"blk.{index}.{_GGUF_LAYER[part]}.{suffix}"
    return out


def from_gguf_names(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """The same tensors under Hugging Face's names; names that GGUF does not know are kept."""
    top = {short: long for long, short in _GGUF_TOP.items()}
    layer = {short: long for long, short in _GGUF_LAYER.items()}
    out = {}
    for name, weight in tensors.items():
        stem, _, suffix = name.rpartition(".")
        block, _, rest = stem.partition(".")
        index, _, part = rest.partition(".")
        if stem in top:
            out[f"{top[stem]}.{suffix}"] = weight
        elif block == "blk" and part in layer:
            out[f"model.layers.{index}.{layer[part]}.{suffix}"] = weight
        else:
            out[name] = weight
    return out


def check_tensors(weights: Mapping[str, Weight], config: NemotronConfig, source: str) -> dict[str, Weight]:
    """Pick the model's tensors, each present with its shape, and nothing unknown beside them.

    Left out silently: `rotary_emb.inv_freq` buffers of old checkpoints, and the `lm_head.weight` copy of a model that
    ties it to the input table.

    Raises:
        ModelFileError: a tensor is missing, has another shape, or belongs to no Nemotron model.
    """
    if config.num_hidden_layers > len(weights):
        raise ModelFileError(
            f"{source}: {len(weights)} tensors are there, too few for {config.num_hidden_layers} layers; the file is "
            "incomplete, get it again."
        )
    shapes = expected_shapes(config)
    for name, shape in shapes.items():
        if name not in weights:
            raise ModelFileError(f"{source}: tensor {name!r} is missing; the file is incomplete, get it again.")
        if weights[name].shape != shape:
            raise ModelFileError(
                f"{source}: tensor {name!r} has shape {weights[name].shape}, but the configuration asks for {shape}; "
                "configuration and weights must come from the same model."
            )
    for name in weights.keys() - shapes.keys():
        if not (name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"):
            raise ModelFileError(
                f"{source}: tensor {name!r} belongs to no Nemotron model; expected only {len(shapes)} known ones."
            )
    return {name: weights[name] for name in shapes}
