"""Look-up dialogues: random facts in the prompt, questions whose answers must be copied from it."""
