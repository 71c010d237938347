"""The measurement protocol `standard-3`, from a checkpoint to a verdict."""
