"""Small random models for tests and documentation; nothing in the product imports this package."""

from understudy.testing.cache import ListCache
from understudy.testing.schemas import SchemaMaker
from understudy.testing.stories import write_stories
from understudy.testing.tiny import byte_tokenizer, random_tensors, tiny_config, tiny_model
from understudy.testing.vocabularies import json_tokenizer, sentencepiece_tokenizer

__all__ = [
    "ListCache",
    "SchemaMaker",
    "byte_tokenizer",
    "json_tokenizer",
    "random_tensors",
    "sentencepiece_tokenizer",
    "tiny_config",
    "tiny_model",
    "write_stories",
]
