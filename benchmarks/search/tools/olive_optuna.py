"""Olive: Optuna's TPE over ONNX Runtime's static quantization, for accuracy and ONNX Runtime's latency.

Olive's space of this pass has 24 configurations; the search ends when it has seen them all.
"""

import os
from pathlib import Path
from typing import Any

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"

import openvino
import torch
from job import BATCH, CANDIDATE_SAMPLES, Job, read_job
from olive.data.registry import Registry
from olive.workflows import run
from torch.utils.data import Dataset

MAX_DROP = 0.02
INPUT = "images"
CLASSES = 10


class LabelledDataset(Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """Images under the network's input name, one by one, each with its label."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {INPUT: self.images[index]}, self.labels[index]


def register_data(job: Job) -> None:
    """Make known to Olive the calibration images, whose labels nobody reads, and a part of the search split."""

    def calibration(**_: Any) -> LabelledDataset:
        images = torch.cat([images for (images,) in job.task.calibration()])
        return LabelledDataset(images, torch.zeros(len(images), dtype=torch.int64))

    def search(**_: Any) -> LabelledDataset:
        # Whole batches, because the network's batch is fixed.
        data = job.task.task.splits.search[: CANDIDATE_SAMPLES // BATCH * BATCH]
        return LabelledDataset(job.task.task.normalization(data.images), data.labels)

    Registry.register_dataset("calibration_images")(calibration)
    Registry.register_dataset("search_images")(search)
    Registry.register_post_process("largest_logit")(lambda outputs, **_: outputs.argmax(1))


def data(name: str) -> dict[str, Any]:
    """Return Olive's configuration of one of the data sets, in batches."""
    return {
        "name": name,
        "type": "DataContainer",
        "load_dataset_config": {"type": f"{name}_images"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "largest_logit"},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": BATCH}},
    }


def metrics() -> list[dict[str, Any]]:
    """Return Olive's objectives: accuracy first, within the widest bar, then latency."""
    share = {
        "name": "accuracy_score",
        "priority": 1,
        "metric_config": {"task": "multiclass", "num_classes": CLASSES},
        "goal": {"type": "max-degradation", "value": MAX_DROP},
    }
    average = {"name": "avg", "priority": 2, "metric_config": {"warmup_num": 5, "repeat_test_num": 20}}
    return [
        {"name": "accuracy", "type": "accuracy", "sub_types": [share], "data_config": data("search")},
        {"name": "latency", "type": "latency", "sub_types": [average], "data_config": data("search")},
    ]


def workflow(job: Job, network: Path) -> dict[str, Any]:
    """Return the whole configuration of Olive's run."""
    # OpenVINO reads pairs of quantize and dequantize nodes only, and runs weights with a zero point in floating point.
    fixed = {"quant_format": "QDQ", "precision": "int8"}
    quantization = {"type": "OnnxStaticQuantization", "data_config": data("calibration")} | fixed
    cpu = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    return {
        "input_model": {"type": "OnnxModel", "model_path": str(network)},
        "evaluators": {"judge": {"type": "OnnxEvaluator", "metrics": metrics()}},
        "passes": {"quantization": quantization},
        "search_strategy": {"execution_order": "joint", "sampler": "tpe", "sampler_config": {"seed": job.task.seed}},
        "evaluator": "judge",
        "systems": {"local": {"type": "LocalSystem", "accelerators": [cpu]}},
        "host": "local",
        "target": "local",
        "cache_dir": str(job.out / "olive_cache"),
        "output_dir": str(job.out / "olive"),
    }


def main(job: Job) -> None:
    """Search, then convert every network of Olive's front."""
    register_data(job)
    network = job.out / "original.onnx"
    images = job.task.example_inputs[0].repeat(BATCH, 1, 1, 1)
    torch.onnx.export(job.task.model, (images,), network, input_names=[INPUT], external_data=False)
    output = run(workflow(job, network))
    for place, found in enumerate(output.get_output_models()):
        converted = openvino.convert_model(found.model_path)
        openvino.save_model(converted, job.out / f"front-{place}.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(read_job())
