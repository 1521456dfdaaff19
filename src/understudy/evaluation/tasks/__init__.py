"""The tasks, one file each or one a family."""
