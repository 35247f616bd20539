"""NNCF's post-training quantization to int8, of every network that the step before made."""

import nncf
import openvino
from job import BATCH, Job, read_job


def calibration(job: Job) -> nncf.Dataset:
    """Return the calibration inputs in the batch of the exported networks."""
    return nncf.Dataset([piece.numpy() for (images,) in job.task.calibration() for piece in images.split(BATCH)])


def main(job: Job) -> None:
    """Quantize each network with NNCF's defaults for a CPU."""
    for path in sorted(job.given.glob("*.xml")):
        model = openvino.Core().read_model(path)
        quantized = nncf.quantize(model, calibration(job), target_device=nncf.TargetDevice.CPU)
        openvino.save_model(quantized, job.out / path.name, compress_to_fp16=False)


if __name__ == "__main__":
    main(read_job())
