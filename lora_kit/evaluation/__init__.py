"""Notebook 05: metrics, the report card, the verdict."""
