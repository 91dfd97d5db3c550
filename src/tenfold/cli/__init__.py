"""The commands that are typed."""

from tenfold.cli.app import app, main

__all__ = ["app", "main"]
