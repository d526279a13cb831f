"""What leaves the kit: an adapter zip, GGUF, Ollama, the Hub."""

from .formats import export
from .hub import push

__all__ = ["export", "push"]
