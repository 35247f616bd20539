"""NNCF's quantization with accuracy control: layers go back to floating point until the drop is within a bar."""

from collections.abc import Iterable
from typing import Any

import nncf
import numpy as np
import openvino
from job import BATCH, Job, read_job
from nncf_int8 import calibration

BARS = (0.005, 0.01, 0.02)
Sample = tuple[np.ndarray, np.ndarray]


def search_split(job: Job) -> nncf.Dataset:
    """Return the search split's whole batches as (images, labels), whose model input is the images."""
    data = job.task.task.splits.search
    images = job.task.task.normalization(data.images)
    starts = range(0, len(data) - BATCH + 1, BATCH)
    batches = [(images[at : at + BATCH].numpy(), data.labels[at : at + BATCH].numpy()) for at in starts]
    return nncf.Dataset(batches, lambda batch: batch[0])


def right_answers(model: Any, batches: Iterable[Sample]) -> tuple[float, list[float]]:
    """Return the share of right answers, and that of each batch."""
    shares = [float((model(images)[0].argmax(1) == labels).mean()) for images, labels in batches]
    return float(np.mean(shares)), shares


def main(job: Job) -> None:
    """Quantize the original for each bar; NNCF judges the drop on the search split."""
    for bar in BARS:
        model = openvino.Core().read_model(job.given / "original.xml")
        quantized = nncf.quantize_with_accuracy_control(
            model,
            calibration(job),
            search_split(job),
            right_answers,
            max_drop=bar,
            drop_type=nncf.DropType.ABSOLUTE,
            target_device=nncf.TargetDevice.CPU,
        )
        openvino.save_model(quantized, job.out / f"drop-{bar}.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(read_job())
