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
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.plain import why_not_plain
from gulliver.spaces.recipe import Recipe
from torch import nn

MEMORY_BYTES = 256 << 20
# Kinds of operations that hold those which only select values (hoist.py).
_SELECTING = ("pool", "flatten")


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
        return self._plan.refusal or why_not_plain(recipe) or self._shared_range(recipe)

    def _shared_range(self, recipe: Recipe) -> str | None:
        chosen = {choice.quantize.calibrator for choice in recipe.layers.values() if choice.quantize}
        if chosen <= {"min_max"} or not _selects_from_inputs(self.original.graph):
            return None
        return "values that layers read, and some that are selected from them, may share a calibrated range"

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


def _selects_from_inputs(graph: LayerGraph) -> bool:
    """Say whether values may be selected, as by a pooling, from values that a layer reads as they are."""
    read = {name for name, users in graph.users.items() if any(it.layer for it in users)}
    return any(it.kind in _SELECTING and not read.isdisjoint(it.inputs) for it in graph.operations)
