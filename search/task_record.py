"""What a search, and all that is kept of one, depends on of its task."""

from typing import Any

from gulliver.compressors.compress import Original
from gulliver.tasks.protocol import SPLITS, MetricTask, ScoredTask


def task_record(original: Original) -> dict[str, Any]:
    """Return the task's name and its network, what its calibration inputs are, and how many samples its splits have."""
    task = original.task
    told = {"task": task.name, "network": original.network, "calibration": original.calibration_digest}
    if isinstance(task, MetricTask) or not isinstance(task, ScoredTask):
        return told
    return told | {f"{split}_samples": task.size(split) for split in SPLITS}
