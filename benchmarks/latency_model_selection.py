"""How the structure of the chips' latency model is chosen: python -m benchmarks.latency_model_selection [FIT ...].

Inside the training half of each split of benchmarks/latency_model.py, shapes are dealt to four folds, kernel by kernel;
the model is fitted on three, together with the other chips' kernels of that half, and predicts the fourth. A change to
the model is kept where these errors fall; the other halves are for the table alone. Prints errors, writes nothing.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from gulliver.evaluators.latency.chip_fit import fit_name, fit_together, published_kernels
from gulliver.evaluators.latency.chip_model import price
from gulliver.evaluators.latency.prediction_error import prediction_error
from gulliver.evaluators.latency.published_kernel import PublishedKernel

from benchmarks.latency_model import SEEDS, SUBSETS, Shape, halves

FOLDS = 4
# (kernel, predicted microseconds)
Predicted = list[tuple[PublishedKernel, float]]


def folds(kernels: Sequence[PublishedKernel], seed: int) -> dict[Shape, int]:
    """Return the fold of every shape; a shape that two kernels share keeps its fold."""
    random = np.random.default_rng(77 + seed)
    strata: dict[tuple[str, str], set[Shape]] = defaultdict(set)
    for kernel in kernels:
        strata[kernel.chip, kernel.family].add(kernel.shape)
    fold: dict[Shape, int] = {}
    for key in sorted(strata):
        fresh = sorted(strata[key] - fold.keys())
        first = int(random.integers(FOLDS))
        fold |= {fresh[at]: (first + place) % FOLDS for place, at in enumerate(random.permutation(len(fresh)))}
    return fold


def predict_folds(
    training: Mapping[str, Sequence[PublishedKernel]], name: str, seed: int
) -> Iterator[tuple[PublishedKernel, float]]:
    """Yield every kernel of the fit's training half with what fits without its fold's shapes predict."""
    fold = folds(training[name], seed)
    for number in range(FOLDS):
        asked = [kernel for kernel in training[name] if fold[kernel.shape] == number]
        if asked:
            left = {key: [it for it in those if fold.get(it.shape) != number] for key, those in training.items()}
            fit = fit_together(left)[name]
            yield from zip(asked, (1e6 * price(asked, fit).seconds).tolist(), strict=True)


def main() -> None:
    """Print the errors by chip and kind of kernels."""
    kernels = published_kernels()
    known = sorted({fit_name(kernel) for kernel in kernels})
    predicted: Predicted = []
    for seed in SEEDS:
        half = halves(kernels, seed)
        training = {name: [it for it in kernels if half[it.shape] == 0 and fit_name(it) == name] for name in known}
        for name in sys.argv[1:] or known:
            predicted += predict_folds(training, name, seed)
    for chip in sorted({kernel.chip for kernel, _ in predicted}):
        for subset, belongs in SUBSETS.items():
            pairs = [(time_us, it.time_us or 0.0) for it, time_us in predicted if it.chip == chip and belongs(it)]
            if pairs:
                error = prediction_error(*zip(*pairs, strict=True))
                print(chip, subset, error.count, f"{100 * error.mean:.1f}%", f"{100 * error.median:.1f}%", sep="\t")


if __name__ == "__main__":
    main()
