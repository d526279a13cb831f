"""Notebook 04: the streaming merge."""

from .stage import NOTICE, merge, merge_folder, merge_inputs

__all__ = ["NOTICE", "merge", "merge_folder", "merge_inputs"]
