"""What a choice does to a layer: sparsify, decompose, quantize, fine-tune, export."""
