"""The forward pass computes what transformers' NemotronForCausalLM computes."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import NemotronConfig as HfConfig
from transformers import NemotronForCausalLM

from understudy.engine.backend import Step
from understudy.model.config import NemotronConfig
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight
from understudy.testing import random_tensors

NUM_GREEDY = 64
TOLERANCE = 1e-4


def random_config(seed: int) -> NemotronConfig:
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.choice([1, 2, 3]))
    return NemotronConfig(
        vocab_size=int(rng.integers(60, 300)),
        hidden_size=int(rng.choice([24, 40, 64, 96])),
        intermediate_size=int(rng.integers(20, 150)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=kv_heads * int(rng.choice([1, 2, 4])),
        num_key_value_heads=kv_heads,
        head_dim=int(rng.choice([8, 16, 32])),
        partial_rotary_factor=(0.25, 0.5, 0.75, 1.0)[seed % 4],
        rope_theta=float(rng.choice([10000.0, 500.0])),
        norm_eps=float(rng.choice([1e-5, 1e-3])),
        tie_word_embeddings=seed % 3 == 0,
        max_position_embeddings=128,
    )


def theirs(config: NemotronConfig, tensors: dict[str, np.ndarray]) -> NemotronForCausalLM:
    fields = dataclasses.asdict(config)
    rope = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
    rope["partial_rotary_factor"] = fields["partial_rotary_factor"]
    model = NemotronForCausalLM(HfConfig(**fields, rope_parameters=rope, attn_implementation="eager")).eval()
    missing, unexpected = model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


@pytest.mark.parametrize("seed", range(20))
def test_same_logits_and_same_greedy_tokens(seed: int) -> None:
    config = random_config(seed)
    tensors = random_tensors(config, seed=seed)
    model = theirs(config, tensors)
    ours = ReferenceBackend(config, {name: Weight.from_array(v) for name, v in tensors.items()})
    prompt = np.random.default_rng(seed).integers(0, config.vocab_size, 11).tolist()
    cache = ours.new_cache()
    logits = [ours.forward([Step(cache, prompt, len(prompt))])[0]]
    greedy: list[int] = []
    for _ in range(NUM_GREEDY):
        greedy.append(int(logits[-1][-1].argmax()))
        logits.append(ours.forward([Step(cache, greedy[-1:])])[0])
    with torch.inference_mode():
        expected = model(torch.tensor([prompt + greedy])).logits[0].numpy()
    np.testing.assert_allclose(np.concatenate(logits), expected, atol=TOLERANCE, rtol=0)
    assert expected.argmax(-1).tolist()[len(prompt) - 1 : -1] == greedy
