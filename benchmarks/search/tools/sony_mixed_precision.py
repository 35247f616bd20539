"""Sony's Model Compression Toolkit: 8, 4 or 2 bits for each layer's weights, for a share of the int8 weights' bytes."""

import copy
from collections.abc import Iterator

import torch
import torchvision_operators  # noqa: F401  # before anything that imports torchvision
from job import Job, read_job
from mct_quantizers import PytorchQuantizationWrapper
from model_compression_toolkit import get_target_platform_capabilities
from model_compression_toolkit.core import (
    CoreConfig,
    MixedPrecisionQuantizationConfig,
    QuantizationConfig,
    ResourceUtilization,
    pytorch_resource_utilization_data,
)
from model_compression_toolkit.ptq import pytorch_post_training_quantization
from torch import nn

SHARES_OF_BYTES = (0.75, 0.5)


def on_int8_grid(model: nn.Module) -> nn.Module:
    """Write in place weights of fewer bits as int8 values of the same scale, as this CPU has no narrower kernel."""
    for wrapper in model.modules():
        if isinstance(wrapper, PytorchQuantizationWrapper):
            for name, weight, quantizer in wrapper.get_weights_vars():
                getattr(wrapper, name).data = quantizer(weight.detach())
                quantizer.min_quantized_domain, quantizer.max_quantized_domain = -128, 127
    return model


def main(job: Job) -> None:
    """Quantize for each share, with the toolkit's default platform and settings."""

    def images() -> Iterator[list[torch.Tensor]]:
        yield from ([images] for (images,) in job.task.calibration())

    platform = get_target_platform_capabilities()
    core = CoreConfig(QuantizationConfig(), MixedPrecisionQuantizationConfig())
    original = copy.deepcopy(job.task.model)
    whole = pytorch_resource_utilization_data(original, images, core, platform).weights_memory
    for share in SHARES_OF_BYTES:
        limit = ResourceUtilization(weights_memory=share * whole)
        model, _ = pytorch_post_training_quantization(original, images, limit, core, platform)
        job.save(f"bytes-{share}", on_int8_grid(model))


if __name__ == "__main__":
    main(read_job())
