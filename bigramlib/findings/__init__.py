"""The findings of the paper: a study to explore with, the claims, the style of the figures, and one file for each notebook."""
