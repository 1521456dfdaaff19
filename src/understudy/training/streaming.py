"""A forward pass that holds one layer at a time, so that a 15B checkpoint is calibrated on a small machine."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.model.mapped_file import drop_pages
from understudy.training.model import Block, LayerNorm1P, hf_names, rotary_tables

__all__ = ["FinalWalk", "LayerStreamer", "LayerWalk", "walk_layers"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerWalk:
    """What a batch does in a layer.

    Attributes:
        layer: index from 0.
        batch: index of the batch.
        before: (B, T, D) residual stream in front of the layer.
        attention_input: (B, T, D) output of `input_layernorm`, feeds q, k and v.
        heads: (B, T, N * H) input of `o_proj`.
        mlp_input: (B, T, D) output of `post_attention_layernorm`, feeds `up_proj`.
        neurons: (B, T, F) after the squared ReLU, feeds `down_proj`.
        after: (B, T, D) residual stream behind the layer.
    """

    layer: int
    batch: int
    before: Tensor
    attention_input: Tensor
    heads: Tensor
    mlp_input: Tensor
    neurons: Tensor
    after: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FinalWalk:
    """What a batch looks like behind the last layer.

    Attributes:
        batch: index of the batch.
        before: (B, T, D) residual stream behind the last layer.
        states: (B, T, D) output of the last norm, feeds `lm_head`.
    """

    batch: int
    before: Tensor
    states: Tensor


class LayerStreamer:
    """Loads the parts of a model one after the other; each layer's weights take the place of the last one's."""

    def __init__(self, files: LoadedModel, *, device: torch.device | str = "cpu") -> None:
        self._files = files
        self._device = torch.device(device)
        with torch.device("meta"):
            block = Block(files.config)
            norm = LayerNorm1P(files.config.hidden_size, files.config.norm_eps)
        self._block = block.to_empty(device=self._device).requires_grad_(False)
        self._norm = norm.to_empty(device=self._device).requires_grad_(False)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Residual stream (B, T, D) in front of the first layer; reads only the rows that are asked for.

        Raises:
            DataError: ids of another shape, or beyond the vocabulary.
        """
        if token_ids.dim() != 2 or not token_ids.numel():
            raise DataError(f"A calibration batch must be (rows, tokens) of ids, got {tuple(token_ids.shape)}.")
        low, high = int(token_ids.min()), int(token_ids.max())
        if low < 0 or high >= self._files.config.vocab_size:
            raise DataError(
                f"A calibration batch has ids from {low} to {high}, but the model knows 0 to "
                f"{self._files.config.vocab_size - 1}; encode the texts with the model's own tokenizer."
            )
        rows = self._files.weights["model.embed_tokens.weight"].rows(token_ids.reshape(-1).cpu().numpy())
        return torch.from_numpy(rows).view(*token_ids.shape, -1).to(self._device)

    def load_layer(self, layer: int) -> Block:
        """The block of a layer, float32; it is overwritten by the next call."""
        with torch.no_grad():
            for name, parameter in self._block.named_parameters():
                start = 0
                for part in hf_names(f"layers.{layer}.{name}"):
                    weight = self._files.weights[part]
                    values = torch.from_numpy(weight.dense())
                    parameter[start : start + len(values)].copy_(values)
                    drop_pages(weight.raw)  # so that a file of any size is walked in the memory of a layer
                    start += len(values)
                assert start == len(parameter)
        return self._block

    def load_norm(self) -> LayerNorm1P:
        """The norm behind the last layer, float32."""
        with torch.no_grad():
            for name, parameter in self._norm.named_parameters():
                parameter.copy_(torch.from_numpy(self._files.weights[f"model.norm.{name}"].dense()))
        return self._norm


def walk_layers(
    files: LoadedModel,
    batches: Sequence[Tensor],
    *,
    device: torch.device | str = "cpu",
    keep_dtype: torch.dtype = torch.float32,
) -> Iterator[LayerWalk | FinalWalk]:
    """Carry batches through a model layer by layer, in float32.

    One layer's weights are in memory, the residual streams of all batches, and the inner states of one batch; the
    output table is never read. A layer's weights are read only when its first record is asked for, so a quantizer may
    exchange them (through `files.weights`) after it has seen the layer's inputs.

    Args:
        files: the model.
        batches: (B, T) ids each; B and T may differ. Attention takes B * N * T * T floats: rather more batches.
        device: where the products are made and the residual streams are held.
        keep_dtype: how residual streams are held between two layers; bfloat16 halves their memory, and rounds.

    Yields:
        A `LayerWalk` for each layer and batch, all batches of a layer before the next layer; then a `FinalWalk` for
        each batch. Tensors of a record are float32 on `device`, free for the caller to change.

    Raises:
        DataError: a batch has another shape, or ids beyond the vocabulary.
    """
    streamer = LayerStreamer(files, device=device)
    streams = [streamer.embed(ids).to(keep_dtype) for ids in batches]
    for layer in range(files.config.num_hidden_layers):
        block = streamer.load_layer(layer)
        for number, stream in enumerate(streams):
            record = _walk_block(files, block, stream, layer, number)
            streams[number] = record.after.to(keep_dtype, copy=True)
            yield record
            del record
    norm = streamer.load_norm()
    for number, stream in enumerate(streams):
        before = stream.to(torch.float32, copy=True)
        with torch.no_grad():
            states = norm(before)
        yield FinalWalk(batch=number, before=before, states=states)


def _walk_block(files: LoadedModel, block: Block, stream: Tensor, layer: int, batch: int) -> LayerWalk:
    before = stream.to(torch.float32, copy=True)
    cos, sin = rotary_tables(files.config, before.shape[1], before.device)
    with torch.no_grad():
        states = block.states(before, cos, sin)
    return LayerWalk(layer=layer, batch=batch, before=before, **states._asdict())
