"""The training loop: loss, early stopping, the run folder."""
