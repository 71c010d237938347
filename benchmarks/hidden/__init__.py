"""Targets in which the knowledge is whole and hidden, each built beside the proof that it is there."""
