"""Corpora, generated look-ups, and dialogues as token arrays."""
