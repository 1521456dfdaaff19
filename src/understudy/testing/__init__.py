"""Small random models for tests and documentation; nothing in the product imports this package."""

from understudy.testing.cache import ListCache
from understudy.testing.stories import write_stories
from understudy.testing.tiny import byte_tokenizer, random_tensors, tiny_config, tiny_model

__all__ = ["ListCache", "byte_tokenizer", "random_tensors", "tiny_config", "tiny_model", "write_stories"]
