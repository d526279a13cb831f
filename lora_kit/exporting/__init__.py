"""What leaves the kit: an adapter zip, GGUF, Ollama, the Hub."""
