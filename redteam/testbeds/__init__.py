"""Small built-in worlds with known ground truth, one per file."""
