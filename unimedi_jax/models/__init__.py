"""The networks: tokenizers and shared ViT, report tower, heads, and UniMedI that holds them."""
