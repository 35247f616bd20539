"""ModelOpt's FastNAS: widths searched by accuracy for a share of the operations, then fine-tuned."""

import copy

import modelopt.torch.prune as mtp
from job import Job, read_job

SHARES_OF_FLOPS = ("75%", "50%")
# The default of 32 leaves a layer of 32 channels no choice.
MULTIPLE = 16


def main(job: Job) -> None:
    """Prune for each share; FastNAS judges its candidates on the search split."""
    widths = {"*": {"channel_divisor": MULTIPLE}}
    features = {"*": {"feature_divisor": MULTIPLE}}
    space = {"nn.Conv2d": widths, "nn.BatchNorm2d": features, "nn.Linear": features}
    for share in SHARES_OF_FLOPS:
        model, _ = mtp.prune(
            copy.deepcopy(job.task.model),
            mode=[("fastnas", space)],
            constraints={"flops": share},
            dummy_input=job.task.example_inputs[0],
            config={
                "data_loader": list(job.task.calibration()),
                "collect_func": lambda inputs: inputs[0],
                "score_func": job.candidate_score,
            },
        )
        job.save(f"flops-{share[:-1]}", job.recover(model))


if __name__ == "__main__":
    main(read_job())
