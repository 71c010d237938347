"""The debate on one table: methods on testbeds, attacked alike, and what that says. `redteam bench` runs it."""
