"""The search for the strongest attack: how a budget is divided, what Optuna proposes, which trials are confirmed."""
