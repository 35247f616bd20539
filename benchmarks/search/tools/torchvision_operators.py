"""Lets torchvision be imported beside a CPU build of torch, for the tools that import it and never call it.

The torchvision of the package index is built for CUDA. Its operators do not load here, and its import then stops
where it describes two of them that were never declared.
"""

import torch

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
