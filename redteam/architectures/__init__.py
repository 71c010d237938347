"""Plain torch modules that testbeds train and checkpoints hold, one per file. `contract` says what one is."""
