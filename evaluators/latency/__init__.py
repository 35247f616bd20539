"""Lowering, kernel times and measurements on the target."""
