"""How sure a difference between two networks is that were scored on the same samples."""

import numpy as np
from torch import Tensor

_CONFIDENCE = 0.95
_RESAMPLES = 2000
# Samples are drawn for so many resamples at a time: 100 times 10,000 samples are 8 MB.
_BATCH = 100


def drop_interval(original: Tensor | None, scores: Tensor | None) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of the mean that is lost against the original, both of shape (samples,).

    Percentiles of resampled means of the paired differences (Efron 1979), always from the same seed. None where the
    metric is no mean, there is one sample only, or a score is not a number.
    """
    from scipy.stats import bootstrap

    if original is None or scores is None or len(scores) < 2:
        return None
    lost = (original - scores).numpy(force=True)
    if not np.isfinite(lost).all():
        return None
    found = bootstrap(
        (lost,),
        np.mean,
        method="percentile",
        confidence_level=_CONFIDENCE,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
