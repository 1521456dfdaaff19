"""Text to token ids and back."""

from understudy.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer"]
