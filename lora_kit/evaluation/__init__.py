"""Notebook 05: metrics, the report card, the verdict."""

from .card import Card, evaluate, evaluation_inputs
from .report import markdown_card

__all__ = ["Card", "evaluate", "evaluation_inputs", "markdown_card"]
