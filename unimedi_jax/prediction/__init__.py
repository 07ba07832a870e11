"""Findings, masks and boxes of files: what a trained network and its heads say of pictures without a label."""
