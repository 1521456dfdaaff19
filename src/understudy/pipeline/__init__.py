"""From text to a published small model: stages, each resumable."""
