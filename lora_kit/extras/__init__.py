"""What leaves the kit: an adapter zip, GGUF, Ollama, the Hub."""

from .hub import push
from .stage import export

__all__ = ["export", "push"]
