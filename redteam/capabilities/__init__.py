"""What was removed from a model: items, fact-wise splits, scorers."""
