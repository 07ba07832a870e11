"""Ahead of time: the training step compiled for machines that are not here."""
