"""Understudy: small language models that play game characters."""

__version__ = "0.1.0"
