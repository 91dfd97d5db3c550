"""Efficient building blocks."""
