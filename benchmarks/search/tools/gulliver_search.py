"""Gulliver's own search for a drop of one point, finalists for the other bars too; each counts as one of its models."""

import shutil

from gulliver.search.api import search
from gulliver.search.settings import Budget, FinalistSettings
from gulliver.search.tracking import TrackingSettings
from job import Job, read_job


def main(job: Job) -> None:
    """Search with the job's trials and finalists, whose fine-tuning is every tool's."""
    result = search(
        job.task,
        trials=job.trials,
        seed=job.task.seed,
        out=job.out / "search",
        tracking=TrackingSettings(enabled=False),
        budget=Budget(max_drop=0.01),
        finalists=FinalistSettings(count=job.finalists, finetune=job.finetune, other_drops=(0.005, 0.02)),
    )
    for finalist in result.finalists:
        for suffix in (".xml", ".bin"):
            shutil.copy(finalist.model_path.with_suffix(suffix), job.out / f"{finalist.recipe.key[:8]}{suffix}")


if __name__ == "__main__":
    main(read_job())
