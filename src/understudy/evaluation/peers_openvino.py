"""OpenVINO under measurement: the file's model as an OpenVINO graph with 4-bit weights and a cache of its own."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.evaluation.peers_weights import eight_bit_table, four_bit_matrix, write_beside
from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.model.weights import Weight

__all__ = ["OpenVino", "openvino_model"]

_GROUP_SIZE = 128
_SUFFIX, _FILE = "openvino", "model.xml"
_HIDDEN = -65504.0  # of a masked score: the lowest in half precision


class OpenVino:
    """OpenVINO's CPU plugin with dynamic quantization of activations in groups of 128, its best at prefill.

    Weights are requantized from the file to symmetric 4 bits in groups of 128, all layers and the head, as NNCF's
    `int4_sym` does; the input table to 8 bits. Speed does not depend on values, so that the file's own bits need not
    be kept. The graph is stateful, as Optimum writes it: keys and values live in variables that the plugin fuses with
    attention and keeps in 8 bits.
    """

    def __init__(self, model: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        compiled: Any = core.compile_model(
            core.read_model(model.with_name(f"{model.name}.{_SUFFIX}") / _FILE),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP_SIZE,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        self._request = compiled.create_infer_request()
        self._length = 0
        self.version = f"{metadata.version('openvino')}, 4-bit weights and dynamic quantization in groups of 128"

    @classmethod
    def prepare(cls, model: Path) -> None:
        """Write the graph beside the model, once; it is not part of loading."""
        import openvino

        def write(folder: Path) -> None:
            loaded = load_model(model)
            graph = openvino_model(loaded.config, loaded.weights)
            openvino.save_model(graph, folder / _FILE, compress_to_fp16=False)

        write_beside(model, _SUFFIX, write)

    def prefill(self, token_ids: list[int]) -> None:
        """Begin a sequence."""
        self._request.reset_state()
        self._length = 0
        self._run(token_ids)

    def decode(self, token_id: int) -> None:
        """Add a token."""
        self._run([token_id])

    def extend(self, length: int, token_ids: list[int]) -> None:
        """Cut the sequence to `length` tokens, as OpenVINO GenAI does for a prefix that it knows, and go on."""
        import openvino

        for state in self._request.query_state():
            kept = np.ascontiguousarray(state.state.data[:, :, :length])
            state.state = openvino.Tensor(kept)
        self._length = length
        self._run(token_ids)

    def _run(self, token_ids: list[int]) -> npt.NDArray[np.float32]:
        stop = self._length + len(token_ids)
        inputs = {
            "input_ids": np.array([token_ids], np.int64),
            "position_ids": np.arange(self._length, stop, dtype=np.int64),
            "beam_idx": np.zeros(1, np.int32),
        }
        self._length = stop
        logits: npt.NDArray[np.float32] = self._request.infer(inputs)["logits"]
        return logits


def openvino_model(config: NemotronConfig, weights: Mapping[str, Weight]) -> Any:
    """A stateful OpenVINO model (`openvino.Model`) of the same network.

    Inputs are `input_ids` (1, T), `position_ids` (T,) and `beam_idx` (1,); `logits` are (1, 1, V), of the last token.
    """
    return _Graph(config, weights).model()


class _Graph:
    def __init__(self, config: NemotronConfig, weights: Mapping[str, Weight]) -> None:
        import openvino
        from openvino import opset13

        self._ov: Any = openvino
        self._op: Any = opset13
        self._config, self._weights = config, weights
        self._assigns: list[Any] = []

    def model(self) -> Any:
        ov, op, config = self._ov, self._op, self._config
        ids = op.parameter([1, -1], ov.Type.i64, name="input_ids")
        positions = op.parameter([-1], ov.Type.i64, name="position_ids")
        beam = op.parameter([1], ov.Type.i32, name="beam_idx")
        for node in (ids, positions, beam):
            node.output(0).set_names({node.get_friendly_name()})
        x = self._embed(ids)
        turns, mask = self._turns(positions), self._mask(positions)
        for layer in range(config.num_hidden_layers):
            name = f"model.layers.{layer}"
            x = op.add(x, self._attention(self._norm(x, f"{name}.input_layernorm"), layer, turns, mask, beam))
            up = op.relu(self._linear(self._norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp.up_proj.weight"))
            x = op.add(x, self._linear(op.multiply(up, up), f"{name}.mlp.down_proj.weight"))
        last = op.gather(x, self._ints([-1]), self._ints(1))
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        logits = op.result(self._linear(self._norm(last, "model.norm"), head), name="logits")
        logits.output(0).set_names({"logits"})
        return ov.Model([logits], self._assigns, [ids, positions, beam], "nemotron")

    def _ints(self, values: int | list[int]) -> Any:
        return self._op.constant(np.array(values, np.int64))

    def _floats(self, values: npt.ArrayLike) -> Any:
        return self._op.constant(np.array(values, np.float32))

    def _embed(self, ids: Any) -> Any:
        op = self._op
        levels, scales = eight_bit_table(self._weights["model.embed_tokens.weight"])
        picked = op.gather(op.constant(levels), ids, self._ints(0))
        return op.multiply(op.convert(picked, "f32"), op.gather(op.constant(scales), ids, self._ints(0)))

    def _norm(self, x: Any, name: str) -> Any:
        op = self._op
        normed = op.mvn(x, self._ints([-1]), True, self._config.norm_eps, "inside_sqrt")
        gain = self._weights[f"{name}.weight"].dense() + np.float32(1)
        return op.add(op.multiply(normed, self._floats(gain)), self._floats(self._weights[f"{name}.bias"].dense()))

    def _linear(self, x: Any, name: str) -> Any:
        ov, op, weight = self._ov, self._op, self._weights[name]
        packed, scales = four_bit_matrix(weight)
        rows, groups, half = packed.shape
        stored = ov.Tensor(ov.Type.i4, ov.Shape([rows, groups, 2 * half]))  # holds its memory, unlike one of an array
        stored.data.reshape(-1)[:] = packed.reshape(-1)
        scaled = op.multiply(op.convert(ov.op.Constant(stored), "f16"), op.constant(scales))
        matrix = op.convert(op.reshape(scaled, self._ints(list(weight.shape)), False), "f32")
        return op.matmul(x, matrix, False, True)

    def _turns(self, positions: Any) -> tuple[Any, Any]:
        """Cosines and sines, (1, 1, T, rotary)."""
        op, config = self._op, self._config
        exponents = np.arange(0, config.rotary_dim, 2) / config.rotary_dim
        frequencies = self._floats((config.rope_theta**-exponents)[None])
        half = op.matmul(op.unsqueeze(op.convert(positions, "f32"), self._ints(1)), frequencies, False, False)
        angles = op.unsqueeze(op.concat([half, half], -1), self._ints([0, 1]))
        return op.cos(angles), op.sin(angles)

    def _mask(self, positions: Any) -> Any:
        """(1, 1, T, S): 0 where a token may look, lowest elsewhere."""
        op = self._op
        last = op.reduce_max(positions, self._ints([0]), False)
        cached = op.range(self._ints(0), op.add(last, self._ints(1)), self._ints(1), "i64")
        is_past = op.less_equal(op.unsqueeze(cached, self._ints(0)), op.unsqueeze(positions, self._ints(1)))
        mask = op.select(is_past, self._floats(0.0), self._floats(_HIDDEN))
        return op.unsqueeze(mask, self._ints([0, 1]))

    def _heads(self, x: Any, name: str, count: int) -> Any:
        op = self._op
        split = op.reshape(self._linear(x, name), self._ints([0, 0, count, self._config.head_dim]), True)
        return op.transpose(split, self._ints([0, 2, 1, 3]))

    def _turned(self, x: Any, turns: tuple[Any, Any]) -> Any:
        op, config = self._op, self._config
        rotary, half = config.rotary_dim, config.rotary_dim // 2
        parts = [rotary, config.head_dim - rotary] if rotary < config.head_dim else [rotary]
        pieces = op.variadic_split(x, self._ints(3), self._ints(parts))
        first = pieces.output(0)
        halves = op.variadic_split(first, self._ints(3), self._ints([half, half]))
        crossed = op.concat(
            [op.multiply(halves.output(1), self._floats(np.full((1, 1, 1, 1), -1.0))), halves.output(0)], -1
        )
        turned = op.add(op.multiply(first, turns[0]), op.multiply(crossed, turns[1]))
        return op.concat([turned, pieces.output(1)], -1) if len(parts) == 2 else turned

    def _attention(self, x: Any, layer: int, turns: tuple[Any, Any], mask: Any, beam: Any) -> Any:
        op, config = self._op, self._config
        name = f"model.layers.{layer}.self_attn"
        query = self._turned(self._heads(x, f"{name}.q_proj.weight", config.num_attention_heads), turns)
        key = self._turned(self._heads(x, f"{name}.k_proj.weight", config.num_key_value_heads), turns)
        value = self._heads(x, f"{name}.v_proj.weight", config.num_key_value_heads)
        keys, values = (self._cached(new, f"{layer}.{which}", beam) for new, which in ((key, "key"), (value, "value")))
        mixed = op.scaled_dot_product_attention(query, keys, values, mask)
        rows = op.reshape(
            op.transpose(mixed, self._ints([0, 2, 1, 3])),
            self._ints([0, 0, config.num_attention_heads * config.head_dim]),
            True,
        )
        return self._linear(rows, f"{name}.o_proj.weight")

    def _cached(self, new: Any, name: str, beam: Any) -> Any:
        """All keys or values so far, (1, N, S, H): the variable's and the new ones, once for each query head."""
        ov, op, config = self._ov, self._op, self._config
        heads, size = config.num_key_value_heads, config.head_dim
        share = config.num_attention_heads // heads
        empty = op.constant(np.zeros((1, heads, 0, size), np.float32))
        info = ov.op.util.VariableInfo()
        info.data_shape = ov.PartialShape([1, heads, -1, size])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = ov.op.util.Variable(info)
        past = op.gather(op.read_value(empty, variable), beam, self._ints(0))
        both = op.concat([past, new], 2)
        self._assigns.append(op.assign(both, variable))
        if share == 1:
            return both
        wide = op.broadcast(
            op.unsqueeze(both, self._ints(2)), self._ints([1, 1, share, 1, 1]), broadcast_spec="BIDIRECTIONAL"
        )
        return op.reshape(wide, self._ints([0, heads * share, -1, size]), True)
