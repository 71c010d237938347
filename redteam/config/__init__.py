"""Pydantic models of the files that a user writes or carries beside a checkpoint."""
