"""The input pipeline: records to batches of integer tokens. numpy only, no jax."""
