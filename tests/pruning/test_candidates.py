import dataclasses

import pytest

from understudy.errors import RecipeError
from understudy.model.config import NemotronConfig
from understudy.model.published import PUBLISHED_SHAPES
from understudy.pruning.candidates import SearchSpace, enumerate_candidates, stored_bytes
from understudy.testing import tiny_config

PARENT = PUBLISHED_SHAPES["nemotron-4-15b"]
TARGET = PUBLISHED_SHAPES["nemotron-mini-4b"].num_parameters
DEEP = SearchSpace(hidden_step=512, intermediate_step=1024, layers=(16, 20, 24, 28, 32))


def axes(config: NemotronConfig) -> tuple[int, int, int, int]:
    return (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)


def test_candidates_are_near_the_target_and_well_formed() -> None:
    found = enumerate_candidates(PARENT, parameters=TARGET, space=DEEP, limit=12)
    assert len(found) == 12
    assert len({axes(c.config) for c in found}) == 12
    for c in found:
        assert c.size == c.config.num_parameters
        assert abs(c.size - TARGET) <= 0.05 * TARGET
        assert c.config.hidden_size % 512 == c.config.intermediate_size % 1024 == 0
        assert c.config.num_attention_heads % 8 == 0
        assert c.skew <= 3.0
        assert (
            dataclasses.replace(
                c.config, num_hidden_layers=32, hidden_size=6144, intermediate_size=24576, num_attention_heads=48
            )
            == PARENT
        )


def test_they_trade_width_for_depth() -> None:
    found = enumerate_candidates(PARENT, parameters=TARGET, space=DEEP, limit=8)
    shallow = [c.config for c in found if c.config.num_hidden_layers <= 20]
    deep = [c.config for c in found if c.config.num_hidden_layers >= 28]
    assert shallow
    assert deep
    assert max(c.hidden_size for c in shallow) > min(c.hidden_size for c in deep)
    assert found[0].skew == min(c.skew for c in found)


def test_the_published_shape_is_found() -> None:
    space = SearchSpace(hidden_step=1024, intermediate_step=1024)
    found = enumerate_candidates(PARENT, parameters=TARGET, space=space, limit=1000)
    assert axes(PUBLISHED_SHAPES["nemotron-mini-4b"]) in {axes(c.config) for c in found}
    assert {c.config.num_hidden_layers for c in found} == {32}


def test_a_target_in_bytes() -> None:
    small = PUBLISHED_SHAPES["nemotron-mini-4b"]
    found = enumerate_candidates(
        small, memory_bytes=1_500_000_000, bits_per_weight=4.5, head_bits=6.5625, space=DEEP, limit=4
    )
    for c in found:
        assert c.size == stored_bytes(c.config, bits_per_weight=4.5, head_bits=6.5625)
        assert abs(c.size - 1_500_000_000) <= 75_000_000


@pytest.mark.parametrize("tied", [False, True])
def test_bytes_of_32_bits_are_the_parameters(tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    assert stored_bytes(config, bits_per_weight=32.0) == 4 * config.num_parameters
    table = config.vocab_size * config.hidden_size
    assert (
        stored_bytes(config, bits_per_weight=16.0, head_bits=32.0) - stored_bytes(config, bits_per_weight=16.0)
        == 2 * table
    )


def test_the_same_request_gives_the_same_list() -> None:
    lists = [enumerate_candidates(PARENT, parameters=TARGET, space=DEEP) for _ in range(2)]
    assert lists[0] == lists[1]


def test_bad_requests_are_one_sentence() -> None:
    with pytest.raises(RecipeError, match="one target"):
        enumerate_candidates(PARENT)
    with pytest.raises(RecipeError, match="one target"):
        enumerate_candidates(PARENT, parameters=1, memory_bytes=1)
    with pytest.raises(RecipeError, match="No shape cut from this model is within 5% of 1,000"):
        enumerate_candidates(PARENT, parameters=1000, space=DEEP)
    for changes, said in (({"tolerance": 0.0}, "tolerance"), ({"hidden_step": 0}, "step"), ({"max_skew": 0.5}, "skew")):
        with pytest.raises(RecipeError, match=said):
            SearchSpace(**changes)  # type: ignore[arg-type]
