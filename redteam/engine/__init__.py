"""The one training loop, and what surrounds it: batches, cost, seeds, snapshots, activations."""
