"""Notebook 05: metrics, the report card, the verdict."""

from .card import headline
from .evaluate import Card, evaluate, evaluation_inputs, read_answers
from .report import markdown_card

__all__ = ["Card", "evaluate", "evaluation_inputs", "headline", "markdown_card", "read_answers"]
