//! Losses, schedule, the training loop, checkpoints.
