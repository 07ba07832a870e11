"""A trained model at work: opening it, reading files for it, embeddings and maps."""
