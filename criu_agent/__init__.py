"""criu-agent: checkpoint, suspend and restore a live agent with its whole process tree."""

__version__ = "0.1.0"
