"""Adversaries, one per file. `contract` says what an attack is."""
