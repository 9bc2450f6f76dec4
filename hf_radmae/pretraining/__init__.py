"""Pre-training: arguments, trainer, callbacks, figures, checkpoints, memory."""
