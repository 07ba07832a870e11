"""A CSV of one's own X-rays and CTs."""
