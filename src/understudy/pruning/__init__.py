"""Smaller models cut from larger ones: importance, width, depth, vocabulary."""
