"""Subnetworks: which weights are kept, where they lie, where a subnetwork comes from, and its files."""
