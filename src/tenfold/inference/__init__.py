"""Language-model inference."""
