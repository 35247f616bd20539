"""MmDeqSwigluQuantMmDeq: a quantized gated MLP in one kernel."""
