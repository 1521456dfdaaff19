"""What is planned for a GPU's memory."""

import dataclasses
import re

import pytest

from understudy.errors import GpuMemoryError
from understudy.kernels.formats import StorageType
from understudy.model.config import NemotronConfig
from understudy.model.published import PUBLISHED_SHAPES
from understudy.model.tensor_names import expected_shapes
from understudy.model.wgpu_plan import GpuPlan, head_slabs, layer_stores, plan_gpu

MINI = PUBLISHED_SHAPES["nemotron-mini-4b"]


def plan(config: NemotronConfig, budget: float | None, kind: StorageType = StorageType.Q4_K, **options: int) -> GpuPlan:
    shapes = expected_shapes(config)
    kinds = {name: StorageType.F32 if len(shape) == 1 else kind for name, shape in shapes.items()}
    return plan_gpu(config, kinds, shapes, budget_bytes=None if budget is None else int(budget), **options)[0]


def test_the_4b_at_its_whole_context_fits_2_2_gb() -> None:
    made = plan(MINI, 2.2e9)
    assert (made.num_gpu_layers, made.has_head, made.cache_tokens, made.kv_bits) == (32, True, 4096, 8)
    assert 2.18e9 < made.total_bytes <= 2.2e9
    assert made.lines()["total"] == f"{made.total_bytes / 1e6:.1f} MB of 2200.0 MB"
    assert made.lines()["layers on the CPU"] == "none"


def test_asked_for_less_it_moves_layers_and_says_so() -> None:
    before = 33
    for budget in (2.1e9, 1.5e9, 0.7e9, 0.1e9):
        made = plan(MINI, budget)
        assert not made.has_head
        assert 1 <= made.num_gpu_layers < before
        assert made.total_bytes <= budget
        assert made.lines()["layers on the CPU"] == f"{32 - made.num_gpu_layers} and the head"
        before = made.num_gpu_layers


def test_where_not_one_layer_fits_it_says_what_would() -> None:
    with pytest.raises(GpuMemoryError, match="Not one layer fits") as error:
        plan(MINI, 4e7)
    needed = float(re.findall(r"takes ([\d.]+) MB", str(error.value))[0]) * 1e6
    assert plan(MINI, needed + 1e5).num_gpu_layers == 1


def test_without_a_budget_all_of_it_and_four_contexts() -> None:
    made = plan(MINI, None)
    assert (made.has_head, made.cache_tokens) == (True, 4 * 4096)
    small = dataclasses.replace(MINI, num_hidden_layers=2, num_key_value_heads=1, num_attention_heads=1)
    assert plan(small, None).kv_bits == 16


def test_projections_of_one_format_are_one_multiplication() -> None:
    shapes = expected_shapes(MINI)
    kinds = dict.fromkeys(shapes, StorageType.Q4_K)

    def stacks(kinds: dict[str, StorageType]) -> list[int]:
        [(matrices, _)] = layer_stores(kinds, shapes, 3, 128 << 20)
        return [len(names) for use, names in matrices if use == "qkv"]

    assert stacks(kinds) == [3]
    kinds["model.layers.3.self_attn.v_proj.weight"] = StorageType.Q6_K
    assert stacks(kinds) == [2, 1]


def test_what_a_kernel_cannot_see_at_once_is_cut() -> None:
    shapes = expected_shapes(MINI)
    stores = layer_stores(dict.fromkeys(shapes, StorageType.F16), shapes, 0, 128 << 20)
    assert [[use for use, _ in matrices] for matrices, _ in stores] == [["qkv", "out", "up"], ["down"]]
    assert max(size for _, size in stores) <= 128 << 20
    for kind in (StorageType.Q4_K, StorageType.Q6_K, StorageType.F32):
        slabs = head_slabs(kind, 256000, 3072, 128 << 20)
        assert [row for part, _ in slabs for row in part] == list(range(256000))
        assert max(size for _, size in slabs) <= 128 << 20
        assert min(size for _, size in slabs[:-1]) > 127 << 20
