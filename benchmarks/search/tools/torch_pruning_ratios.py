"""torch-pruning at 25%, 30% and 50% of every layer's channels, in multiples of 16, then fine-tuned."""

import copy

import torch_pruning
from job import Job, read_job

# What is left is rounded down: of 64 channels 30% leaves 32, as 50% does, and only 25% leaves 48.
RATIOS = (0.25, 0.3, 0.5)
MULTIPLE = 16


def main(job: Job) -> None:
    """Prune by the groups' norms, the library's default importance for convolutional networks."""
    for ratio in RATIOS:
        model = copy.deepcopy(job.task.model)
        pruner = torch_pruning.pruner.MetaPruner(
            model,
            job.task.example_inputs,
            importance=torch_pruning.importance.GroupMagnitudeImportance(),
            pruning_ratio=ratio,
            round_to=MULTIPLE,
            ignored_layers=[model.classifier],
        )
        pruner.step()
        job.save(f"pruned-{ratio}", job.recover(model))


if __name__ == "__main__":
    main(read_job())
