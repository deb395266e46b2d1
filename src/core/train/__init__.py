"""What the training of several papers shares: keyed randomness, ranks, checkpoints, progress."""
