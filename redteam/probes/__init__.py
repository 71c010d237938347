"""Probes, one per file: they read representations and change nothing. `contract` says what a probe is."""
