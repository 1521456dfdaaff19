"""ONNX Runtime under measurement: the file's model of the operators that ONNX Runtime GenAI's model builder writes."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from understudy.evaluation.peers_weights import eight_bit_table, four_bit_matrix, write_beside
from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.model.weights import Weight

__all__ = ["OnnxRuntime", "write_onnx"]

_SUFFIX, _FILE, _DATA = "onnxruntime", "model.onnx", "model.data"
_OPSET, _IR_VERSION = 21, 10
_MICROSOFT = "com.microsoft"
_ALIGNMENT = 4096
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level


class OnnxRuntime:
    """ONNX Runtime's CPU provider; ONNX Runtime GenAI runs its models on it.

    Weights have 4 bits in groups of 128 (`MatMulNBits`, 8-bit activations), attention is `GroupQueryAttention` on a
    cache that is read and written in place, and only the last token's row meets the head: the builder's options
    block_size=128, accuracy_level=4, is_symmetric, prune_lm_head.
    """

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        file = model.with_name(f"{model.name}.{_SUFFIX}") / _FILE
        self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._value: Any = onnxruntime.OrtValue.ortvalue_from_numpy
        self._binding = self._session.io_binding()
        self._caches = {
            i.name: self._value(np.zeros(i.shape, np.float32))
            for i in self._session.get_inputs()
            if i.name.startswith("cache.")
        }
        for name, cache in self._caches.items():
            self._binding.bind_ortvalue_input(name, cache)
            self._binding.bind_ortvalue_output(f"new.{name}", cache)
        self._length = 0
        self.version = f"{metadata.version('onnxruntime')}, 4-bit weights in groups of 128, 8-bit activations"

    @classmethod
    def prepare(cls, model: Path) -> None:
        """Write the graph beside the model, once; it is not part of loading."""

        def write(folder: Path) -> None:
            loaded = load_model(model)
            write_onnx(folder / _FILE, loaded.config, loaded.weights)

        write_beside(model, _SUFFIX, write)

    def prefill(self, token_ids: list[int]) -> None:
        """Begin a sequence."""
        self._length = 0
        self._run(token_ids)

    def decode(self, token_id: int) -> None:
        """Add a token."""
        self._run([token_id])

    def extend(self, length: int, token_ids: list[int]) -> None:
        """Go on from the first `length` tokens."""
        self._length = length
        self._run(token_ids)

    def _run(self, token_ids: list[int]) -> npt.NDArray[np.float32]:
        self._length += len(token_ids)
        inputs = {
            "input_ids": np.array([token_ids], np.int64),
            "last_position": np.array([self._length - 1], np.int32),
            "total_length": np.array(self._length, np.int32),
        }
        for name, values in inputs.items():
            self._binding.bind_ortvalue_input(name, self._value(values))
        self._binding.bind_output("logits")  # after the caches, hence the last of the outputs
        self._session.run_with_iobinding(self._binding)
        logits: npt.NDArray[np.float32] = self._binding.get_outputs()[-1].numpy()
        return logits


def write_onnx(path: Path, config: NemotronConfig, weights: Mapping[str, Weight]) -> None:
    """Write the network, its weights in a file beside, a matrix at a time.

    Inputs are `input_ids` (1, T), `last_position` (1,), `total_length` () and a `cache.*` (1, K, S, H) of keys and one
    of values for each layer, S the longest context; outputs are `logits` (1, 1, V) of the last token and `new.cache.*`.
    """
    import onnx

    with (path.parent / _DATA).open("wb") as data:
        onnx.save(_Graph(config, weights, data).model(), str(path))


class _Graph:
    def __init__(self, config: NemotronConfig, weights: Mapping[str, Weight], data: BinaryIO) -> None:
        import onnx

        self._onnx: Any = onnx
        self._config, self._weights, self._data = config, weights, data
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []
        self._caches: list[str] = []

    def model(self) -> Any:
        helper, config = self._onnx.helper, self._config
        turns = self._turns()
        x = self._embed()
        for layer in range(config.num_hidden_layers):
            name = f"model.layers.{layer}"
            mixed = self._attention(self._norm(x, f"{name}.input_layernorm"), name, turns)
            x = self._node("Add", [x, mixed])
            up = self._linear(self._norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp.up_proj.weight")
            up = self._node("Relu", [up])
            x = self._node("Add", [x, self._linear(self._node("Mul", [up, up]), f"{name}.mlp.down_proj.weight")])
        last = self._node("Gather", [x, self._tensor("last", np.array([-1], np.int64))], axis=1)
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        self._linear(self._norm(last, "model.norm"), head, output="logits")
        shape = [1, config.num_key_value_heads, config.max_position_embeddings, config.head_dim]
        inputs = [
            self._info("input_ids", "INT64", [1, "T"]),
            self._info("last_position", "INT32", [1]),
            self._info("total_length", "INT32", []),
            *(self._info(cache, "FLOAT", shape) for cache in self._caches),
        ]
        outputs = [
            self._info("logits", "FLOAT", [1, 1, config.vocab_size]),
            *(self._info(f"new.{cache}", "FLOAT", shape) for cache in self._caches),
        ]
        graph = helper.make_graph(self._nodes, "nemotron", inputs, outputs, self._tensors)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _info(self, name: str, kind: str, shape: Sequence[int | str]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, getattr(self._onnx.TensorProto, kind), shape)

    def _node(self, kind: str, inputs: Sequence[str], *, outputs: Sequence[str] = (), **attributes: Any) -> str:
        outputs = outputs or [f"{kind}.{len(self._nodes)}"]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def _tensor(self, name: str, values: npt.NDArray[Any]) -> str:
        """A constant whose bytes are in the file beside."""
        tensor = self._onnx.TensorProto(name=name, data_location=self._onnx.TensorProto.EXTERNAL)
        tensor.data_type = self._onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.dims.extend(values.shape)
        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        place = {"location": _DATA, "offset": str(self._data.tell()), "length": str(values.nbytes)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self._data.write(np.ascontiguousarray(values).tobytes())
        self._tensors.append(tensor)
        return name

    def _embed(self) -> str:
        levels, scales = eight_bit_table(self._weights["model.embed_tokens.weight"])
        picked = self._node("Gather", [self._tensor("embedding.levels", levels), "input_ids"])
        picked = self._node("Cast", [picked], to=self._onnx.TensorProto.FLOAT)
        return self._node(
            "Mul", [picked, self._node("Gather", [self._tensor("embedding.scales", scales), "input_ids"])]
        )

    def _norm(self, x: str, name: str) -> str:
        gain = self._tensor(f"{name}.gain", self._weights[f"{name}.weight"].dense() + np.float32(1))
        bias = self._tensor(f"{name}.bias", self._weights[f"{name}.bias"].dense())
        return self._node("LayerNormalization", [x, gain, bias], axis=-1, epsilon=self._config.norm_eps)

    def _linear(self, x: str, name: str, *, output: str = "") -> str:
        weight = self._weights[name]
        packed, scales = four_bit_matrix(weight, offset=8)  # without zero points, a level of 8 is zero
        size = 2 * packed.shape[2]
        levels = self._tensor(f"{name}.levels", packed)
        scale = self._tensor(f"{name}.scales", scales[..., 0].astype(np.float32))
        return self._node(
            "MatMulNBits", [x, levels, scale], outputs=[output] if output else (), domain=_MICROSOFT,
            K=weight.shape[1], N=weight.shape[0], bits=4, block_size=size, accuracy_level=_INT8_ACTIVATIONS,
        )  # fmt: skip

    def _turns(self) -> list[str]:
        """Cosines and sines of all positions, (S, rotary / 2)."""
        config = self._config
        frequencies = config.rope_theta ** -(np.arange(0, config.rotary_dim, 2) / config.rotary_dim)
        angles = np.outer(np.arange(config.max_position_embeddings), frequencies)
        return [
            self._tensor("cosines", np.cos(angles).astype(np.float32)),
            self._tensor("sines", np.sin(angles).astype(np.float32)),
        ]

    def _attention(self, x: str, name: str, turns: list[str]) -> str:
        caches = [f"cache.{name}.key", f"cache.{name}.value"]
        self._caches += caches
        query, key, value = (self._linear(x, f"{name}.self_attn.{which}_proj.weight") for which in "qkv")
        mixed = self._node(
            "GroupQueryAttention",
            [query, key, value, *caches, "last_position", "total_length", *turns],
            outputs=[f"{name}.mixed", *(f"new.{cache}" for cache in caches)],
            domain=_MICROSOFT,
            num_heads=self._config.num_attention_heads,
            kv_num_heads=self._config.num_key_value_heads,
            do_rotary=1,
        )
        return self._linear(mixed, f"{name}.self_attn.o_proj.weight")
