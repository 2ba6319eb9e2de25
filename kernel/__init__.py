"""The gateway's kernel: the hot path and its organs."""

__version__ = "1.0.0"
