"""Compress one network by thousands of recipes: what two of them have in common is made once.

`compress` is the truth. What a candidate's network returns is equal to the last bit, because the same operations are
done on the same numbers; only what was done before is left out.
"""

import torch
from gulliver.compressors.assemble import Assembler
from gulliver.compressors.calibrate import Calibrator
from gulliver.compressors.compress import Original, compress
from gulliver.compressors.layer_parts import LayerParts
from gulliver.compressors.plan import read_plan
from gulliver.compressors.store import Store
from gulliver.compressors.thinning import thinning_of
from gulliver.spaces.plain import why_not_plain
from gulliver.spaces.recipe import Recipe
from torch import nn

MEMORY_BYTES = 256 << 20


class Candidates:
    """The networks of one original's recipes; what is kept from one to the next takes `memory_bytes` at most.

    Half of it is for weights and what calibration found, half for tensors and folded weights that depend on all that
    comes before them. Raises InputError for a negative bound.
    """

    def __init__(self, original: Original, memory_bytes: int = MEMORY_BYTES) -> None:
        self.original = original
        self._plan = read_plan(original.task.model, original.graph, original.ranking)
        self._weights = Store(memory_bytes // 2)
        self._prefixes = Store(memory_bytes - memory_bytes // 2)
        self._parts = LayerParts(self._plan, original.graph.channel_groups, original.ranking, self._weights)
        self._calibrator = Calibrator(self._plan, self._parts, original.calibration, self._weights, self._prefixes)
        self._assembler = Assembler(self._plan, self._calibrator, self._weights)

    @property
    def used_bytes(self) -> int:
        """Return the bytes that are kept now."""
        return self._weights.used_bytes + self._prefixes.used_bytes

    def refusal(self, recipe: Recipe) -> str | None:
        """Return why the recipe is left to `compress`, None where it is not."""
        if recipe.finetune is not None:
            return "the recipe is fine-tuned"
        return self._plan.refusal or why_not_plain(recipe)

    def network(self, recipe: Recipe) -> nn.Module:
        """Return the network as the recipe wants it, for running only; raises InputError as `compress` does."""
        if self.refusal(recipe) is not None:
            return compress(self.original, recipe)
        recipe, _ = self.original.applicable(recipe)
        # Weights made under a caller's inference mode could be used in no other.
        with torch.inference_mode(False), torch.no_grad():
            thinning = thinning_of(recipe, self._plan, self.original.graph, self._parts)
            statistics = self._calibrator.statistics(thinning)
            quantized = any(choice.quantize for choice in recipe.layers.values())
            ranges = self._calibrator.ranges(thinning, statistics) if quantized else {}
            return self._assembler.network(recipe, thinning, statistics, ranges).eval()
