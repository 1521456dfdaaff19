"""Plans, and the proof of what they take in memory, against the backend itself."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from understudy.errors import RecipeError
from understudy.kernels.formats import StorageType, quantize
from understudy.kernels.native import kernel_names
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.native_backend import CpuBackend
from understudy.model.published import PUBLISHED_SHAPES
from understudy.model.weights import Weight
from understudy.quantization.blocks import ENCODED, encode
from understudy.quantization.plan import (
    PLANS,
    choose_plan,
    fit_plan,
    memory_proof,
    named_plan,
    parse_bytes,
    stored_bytes,
)
from understudy.testing import tiny_model

MINI_4B = PUBLISHED_SHAPES["nemotron-mini-4b"]
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(seed=1, hidden_size=256, intermediate_size=512, head_dim=64)


@pytest.mark.parametrize("name", PLANS)
def test_named_plans(name: str) -> None:
    plan = named_plan(name, MINI_4B)
    matrices, head, table, _ = PLANS[name]
    assert plan.kinds[HEAD] is head
    assert plan.kinds[TABLE] is table
    assert plan.kinds["model.layers.7.mlp.down_proj.weight"] is matrices
    assert plan.kinds["model.norm.weight"] is StorageType.F32
    assert plan.notes == ()


def test_rows_that_do_not_fill_their_blocks_fall_back_and_it_is_said_once() -> None:
    plan = named_plan("q4", dataclasses.replace(MINI_4B, hidden_size=3072 + 32, num_hidden_layers=2))
    assert plan.kinds["model.layers.0.mlp.up_proj.weight"] is StorageType.Q8_0
    assert plan.kinds["model.layers.0.mlp.down_proj.weight"] is StorageType.Q4_K
    assert len(plan.notes) == 1
    assert "stored as Q8_0" in plan.notes[0]
    odd = named_plan("q4", dataclasses.replace(MINI_4B, hidden_size=3072 + 8))
    assert odd.kinds[HEAD] is StorageType.F16


def test_a_tied_table_is_the_head() -> None:
    plan = named_plan("q4", dataclasses.replace(MINI_4B, tie_word_embeddings=True))
    assert plan.kinds[TABLE] is plan.kinds[HEAD] is StorageType.Q6_K


def packed(model: LoadedModel, kind: StorageType) -> dict[str, Weight]:
    out = {}
    for name, weight in model.weights.items():
        matrix = len(weight.shape) == 2
        values = weight.dense()
        raw = (
            encode(values, kind)
            if matrix and kind in ENCODED
            else quantize(values, kind if matrix else StorageType.F32)
        )
        out[name] = Weight(raw, kind if matrix else StorageType.F32, weight.shape)
    return out


@pytest.mark.skipif(not kernel_names(), reason="needs the compiled kernels")
@pytest.mark.parametrize("kind", [*ENCODED, StorageType.F16], ids=lambda kind: kind.name)
def test_the_proof_is_what_the_backend_holds(model: LoadedModel, kind: StorageType) -> None:
    plan = named_plan("q8", model.config)
    kinds = {name: kind if kind_of is StorageType.Q8_0 else kind_of for name, kind_of in plan.kinds.items()}
    proof = memory_proof(dataclasses.replace(plan, kinds=kinds), model.config, context=4096)
    held = CpuBackend(model.config, packed(model, kind), kv_bits=8, num_threads=1).memory()
    norms = (2 * model.config.num_hidden_layers + 1) * 2 * 4 * model.config.hidden_size
    assert proof.weight_bytes == held.weight_bytes + norms
    assert proof.table_bytes == held.mapped_bytes
    assert proof.cache_bytes == 4096 * held.cache_bytes_per_token


def test_the_4b_in_memory() -> None:
    proof = memory_proof(named_plan("q4", MINI_4B), MINI_4B)
    assert proof.cache_bytes == pytest.approx(0.277e9, rel=0.01)
    assert proof.weight_bytes == pytest.approx(2.13e9, rel=0.01)
    assert proof.total_bytes == proof.weight_bytes + proof.cache_bytes + proof.buffer_bytes
    assert sum(stored_bytes(named_plan("q4", MINI_4B), MINI_4B).values()) == pytest.approx(2.56e9, rel=0.01)


def test_a_budget_goes_where_it_helps_most(model: LoadedModel) -> None:
    config = model.config
    least = memory_proof(named_plan("q4xs", config), config, context=64).total_bytes
    most = memory_proof(named_plan("q8", config), config, context=64).total_bytes
    budget = (least + most) // 2
    rng = np.random.default_rng(0)
    weak = "model.layers.0.mlp.up_proj.weight"
    weights = {**model.weights}
    values = weights[weak].dense()
    values[:, ::37] *= rng.uniform(20, 40, values[:, ::37].shape)  # outliers: hard at few bits
    weights[weak] = Weight.from_array(values)
    plan = fit_plan(budget, config, weights, {}, context=64)
    assert least < memory_proof(plan, config, context=64).total_bytes <= budget
    assert plan.kinds[weak].block_bytes / plan.kinds[weak].block_size >= 210 / 256
    assert len(set(plan.kinds.values())) >= 3


def test_with_all_the_memory_there_is_everything_is_q8(model: LoadedModel) -> None:
    plan = fit_plan(10**12, model.config, model.weights, {}, context=64)
    matrices = {kind for name, kind in plan.kinds.items() if kind is not StorageType.F32 and name != TABLE}
    assert matrices == {StorageType.Q8_0}
    assert plan.file_type == PLANS["q8"][3]


def test_more_memory_never_means_a_smaller_format(model: LoadedModel) -> None:
    sizes = []
    for share in (1.0, 1.15, 1.4, 3.0):
        least = memory_proof(fit_plan(10**12, model.config, model.weights, {}, context=64), model.config, context=64)
        floor = memory_proof(named_plan("q4xs", model.config), model.config, context=64).total_bytes
        plan = fit_plan(int(floor * share), model.config, model.weights, {}, context=64)
        sizes.append(sum(stored_bytes(plan, model.config).values()))
        assert memory_proof(plan, model.config, context=64).total_bytes <= max(floor * share, least.total_bytes)
    assert sizes == sorted(sizes)


def test_what_cannot_fit_is_told_with_the_least_that_can(model: LoadedModel) -> None:
    with pytest.raises(RecipeError, match=r"does not fit 10\.0 KB.*smallest plan takes \d\.\d MB") as caught:
        choose_plan(model.config, model.weights, {}, budget_bytes=10_000, context=64)
    assert "keys and values of 64 tokens" in str(caught.value)
    with pytest.raises(RecipeError, match=r"As q8 the model takes .* more than"):
        choose_plan(model.config, model.weights, {}, to="q8", budget_bytes=1_700_000, context=64)
    with pytest.raises(RecipeError, match="There is no plan 'q3'"):
        choose_plan(model.config, model.weights, {}, to="q3")


@pytest.mark.parametrize(
    ("text", "count"), [("2.0GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("2GiB", 2**31), ("1.5g", 15 * 10**8), ("7", 7)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "two", "-1GB", "0", "1TB", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(RecipeError, match="is no size"):
        parse_bytes(text)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
def test_a_measured_file_does_not_stay_in_memory(tmp_path: Path) -> None:
    model = tiny_model(num_hidden_layers=4, hidden_size=256, intermediate_size=4096, head_dim=64)
    write_gguf(tmp_path / "model.gguf", model.config, model.weights, model.tokenizer.definition, None, file_type="f16")
    files = load_model(tmp_path / "model.gguf")
    fit_plan(10**9, files.config, files.weights, {}, context=64)
    maps = Path("/proc/self/smaps").read_text().split("model.gguf")[1:]
    resident = sum(int(re.findall(r"Rss: +(\d+) kB", part)[0]) for part in maps)
    assert resident < 4_000, resident  # kB; the file has some 19,000
