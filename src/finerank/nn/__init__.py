"""Blocks: plain tensors in, plain tensors out; no schema, no recipe, no column names."""
