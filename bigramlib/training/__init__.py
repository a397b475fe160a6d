"""Mask training: one search for a subnetwork, step by step."""
