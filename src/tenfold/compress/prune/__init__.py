"""Structured pruning on a dependency graph."""
