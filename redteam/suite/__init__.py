"""The measurement protocol `standard-1`, from a checkpoint to a verdict."""
