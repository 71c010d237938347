"""The run directory: what was run and scored, append-only. Judging reads nothing else. No torch here."""
