"""What only a notebook shows: boxes and panels (ipywidgets). Each has a plain-text twin that works everywhere."""

from .chat_box import chat_box

__all__ = ["chat_box"]
