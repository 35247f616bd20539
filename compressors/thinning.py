"""What a recipe removes and splits, call by call, and what each tensor's value depends on."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from gulliver.compressors.compress import is_thinned
from gulliver.compressors.layer_parts import Form, LayerParts
from gulliver.compressors.plan import Plan, Step
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.shapes import group_ratio, removed_channels

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Thinning:
    """The form of each step's module, None where it has none, and the module, or its parts, in that form.

    Two steps' `keys` are equal where they are the same step and all that influences its value in floating point is
    equal. Batch norms have new statistics where `estimated`, and those of the original where nothing is thinned.
    """

    forms: tuple[Form | None, ...]
    modules: tuple[tuple[Any, ...], ...]
    keys: tuple[bytes, ...]
    estimated: bool


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that are equal, for all that is practical, exactly where the parts are."""
    return blake2b(b"|".join(parts), digest_size=_DIGEST_BYTES).digest()


def thinning_of(recipe: Recipe, plan: Plan, graph: LayerGraph, parts: LayerParts) -> Thinning:
    """Return the recipe's thinning; its precisions have no part in it."""
    removed = [removed_channels(group.channels, group_ratio(group, recipe)) for group in graph.channel_groups]
    estimated = is_thinned(recipe)
    forms: list[Form | None] = []
    keys: list[bytes] = []
    for position, step in enumerate(plan.steps):
        form = _form(step, recipe, plan, removed) if step.module else None
        own = (position, form and (form.removed, form.split), estimated and step.kind == "batch_norm")
        forms.append(form)
        keys.append(digest(repr(own).encode(), *(keys[source] for source in step.sources)))
    return Thinning(tuple(forms), tuple(parts.modules(form) for form in forms), tuple(keys), estimated)


def _form(step: Step, recipe: Recipe, plan: Plan, removed: list[int]) -> Form:
    counts = tuple(removed[position] for position in plan.groups_of[step.module])
    choice = recipe.layers.get(step.module)
    return Form(step.module, counts, choice.decompose if choice else None)
