"""One command for a personal iDAO."""

__version__ = "0.1.0"
