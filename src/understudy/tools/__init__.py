"""Game functions: their schemas, the grammar of their calls, and the loop that runs them."""
