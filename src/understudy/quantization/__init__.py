"""Weights in four to eight bits, chosen by what they do to the output."""
