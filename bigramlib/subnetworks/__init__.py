"""Subnetworks: which weights are kept, where they lie, and how they are kept on disk and on the hub."""
