"""Runtimes: export, verify and run, one thin file a target."""
