"""Figures and the one-page HTML report of a run: plain arrays and dicts in, one file out."""
