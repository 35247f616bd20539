"""One number for one recipe: accuracy, latency, size."""
