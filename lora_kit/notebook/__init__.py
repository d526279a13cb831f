"""What only a notebook shows: forms, boxes, buttons (ipywidgets). Each has a plain-text twin that works everywhere."""

from .browser import browse
from .chat_box import chat_box
from .form import settings
from .lab import short_training
from .shown import widgets_shown
from .switch import adapter_switch

__all__ = ["adapter_switch", "browse", "chat_box", "settings", "short_training", "widgets_shown"]
