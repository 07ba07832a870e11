"""From report text to captions and token ids."""
