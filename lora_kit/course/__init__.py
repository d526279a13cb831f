"""What only the lessons need: exercises, short trainings, explaining figures."""

from .lab import short_training

__all__ = ["short_training"]
