"""The models of the literature, composed of the blocks in `finerank.nn`."""
