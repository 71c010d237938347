"""The measurement protocol `standard-2`, from a checkpoint to a verdict."""
