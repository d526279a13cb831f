"""Notebook 03: plan, batches, loss, the loop."""
