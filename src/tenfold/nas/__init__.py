"""Design spaces and architecture search."""
