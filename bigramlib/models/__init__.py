"""Frozen language models: how they are laid out, loaded, told apart, and run with masked weights."""
