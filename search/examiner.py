"""What a finished network scores on both splits, beside the original."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gulliver.compressors.compress import Original
from gulliver.evaluators.accuracy import expected_scores, paired_standard_error, sample_scores, score
from gulliver.search.bootstrap import drop_interval
from gulliver.tasks.protocol import SPLITS, Split
from torch import Tensor, nn


@dataclass(frozen=True)
class Examiner:
    """Scores networks on both splits, sample by sample beside the original."""

    original: Original

    def scores(self, module: nn.Module) -> dict[str, Any]:
        """Return what `Exported` says of accuracies and of what is lost."""
        task, before = self.original.task, self._original_scores
        after = {split: sample_scores(task, module, split) for split in SPLITS}
        means = {
            f"accuracy_{split}": score(task, module, split) if it is None else float(it.mean())
            for split, it in after.items()
        }
        low, high = drop_interval(before["test"], after["test"]) or (None, None)
        error = paired_standard_error(after["search"], before["search"])
        expected = {"expected_drop": self._expected_drop(module)}
        return {**means, **expected, "drop_standard_error": error, "drop_test_low": low, "drop_test_high": high}

    def _expected_drop(self, module: nn.Module) -> float | None:
        after = expected_scores(self.original.task, module, "search")
        return None if after is None or self._expected is None else float((self._expected - after).mean())

    @cached_property
    def _expected(self) -> Tensor | None:
        return expected_scores(self.original.task, self.original.task.model, "search")

    @cached_property
    def _original_scores(self) -> dict[Split, Tensor | None]:
        return {split: sample_scores(self.original.task, self.original.task.model, split) for split in SPLITS}
