"""AIMET's spatial SVD, ranks chosen greedily by accuracy for a share of the multiply-accumulates, then fine-tuned."""

import copy
from decimal import Decimal
from pathlib import Path
from typing import Any

import torchvision_operators  # noqa: F401  # before anything that imports torchvision
from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from aimet_torch.compress import ModelCompressor
from aimet_torch.defs import SpatialSvdParameters
from job import Job, read_job

SHARES_OF_MACS = ("0.75", "0.5")
CANDIDATES = 10
RANK_MULTIPLE = 16
# Where AIMET leaves the scores of its candidates, which are the same for every share.
SCORES = Path("data/greedy_selection_eval_scores_dict.pkl")


def main(job: Job) -> None:
    """Decompose for each share; AIMET judges its candidates on the search split."""

    def evaluate(model: Any, iterations: object = None, use_cuda: bool = False) -> float:
        return job.candidate_score(model)

    for share in SHARES_OF_MACS:
        known = str(SCORES) if SCORES.exists() else None
        greedy = GreedySelectionParameters(Decimal(share), CANDIDATES, saved_eval_scores_dict=known)
        automatic = SpatialSvdParameters.AutoModeParams(greedy)
        model, _ = ModelCompressor.compress_model(
            copy.deepcopy(job.task.model),
            evaluate,
            eval_iterations=None,
            input_shape=tuple(job.task.example_inputs[0].shape),
            compress_scheme=CompressionScheme.spatial_svd,
            cost_metric=CostMetric.mac,
            parameters=SpatialSvdParameters(SpatialSvdParameters.Mode.auto, automatic, RANK_MULTIPLE),
        )
        job.save(f"macs-{share}", job.recover(model))


if __name__ == "__main__":
    main(read_job())
