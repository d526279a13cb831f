"""Notebook 05: metrics, the report card, the verdict."""

from .card import Card, evaluate, read_answers
from .inputs import evaluation_inputs
from .measures import headline
from .report import markdown_card

__all__ = ["Card", "evaluate", "evaluation_inputs", "headline", "markdown_card", "read_answers"]
