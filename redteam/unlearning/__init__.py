"""Methods that make an unlearned model, one per file. `contract` says what a method is."""
