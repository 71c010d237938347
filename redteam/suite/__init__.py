"""The measurement protocol `standard-1`, from a checkpoint to a verdict."""

from redteam.suite.standard import attack

__all__ = ["attack"]
