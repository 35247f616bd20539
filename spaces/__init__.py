"""Recipes, the layers and groups of a model, and the space of recipes."""
