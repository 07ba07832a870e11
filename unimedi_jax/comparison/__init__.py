"""Several pre-training runs side by side: ablations, other systems, released encoders."""
