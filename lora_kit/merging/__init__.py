"""Notebook 04: the streaming merge, its certificate, the model card."""
