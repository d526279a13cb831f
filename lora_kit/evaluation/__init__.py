"""Notebook 05: metrics, the report card, the verdict."""

from .card import Card, evaluate, evaluation_inputs

__all__ = ["Card", "evaluate", "evaluation_inputs"]
