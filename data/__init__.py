"""Offline building: raw sources to records. Never imports jax, never imported by training."""
