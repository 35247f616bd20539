"""A model, its data, its score."""
