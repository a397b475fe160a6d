"""The papers' findings: a study to explore with, the claims, the house style, and a file for each notebook."""
