"""The compressed forms of one network's modules: each is made once for each choice of its own, and kept."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gulliver.compressors.decompose import singular_values, split_by, split_layer
from gulliver.compressors.plan import Plan
from gulliver.compressors.quantize import call_layer, rounded_weight
from gulliver.compressors.sparsify import Ranking
from gulliver.compressors.store import Store
from gulliver.spaces.layer_graph import ChannelGroup
from gulliver.spaces.recipe import Decompose
from gulliver.spaces.removal_trial import remove_channels
from torch import Tensor, nn

Layer: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Form:
    """What becomes of one module: how many channels each of its groups loses, and how it is split."""

    module: str
    removed: tuple[int, ...]
    split: Decompose | None = None


@dataclass(frozen=True, slots=True)
class WeightedLayer:
    """A layer with a weight and a bias in place of its own, of which it need have none.

    It is no module: a candidate has hundreds, and to make them and to look for garbage among them takes its time.
    """

    layer: Layer
    weight: Tensor
    bias: Tensor | None

    def __call__(self, values: Tensor) -> Tensor:
        """Return what the layer returns with these."""
        return call_layer(self.layer, values, self.weight, self.bias)

    def rounded(self, bits: int) -> "WeightedLayer":
        """Return it with its weight rounded to so many bits."""
        return WeightedLayer(without_weights(self.layer), rounded_weight(self.weight, bits), self.bias)


class LayerParts:
    """The modules of a plan in every form that was asked for lately."""

    def __init__(self, plan: Plan, groups: Sequence[ChannelGroup], ranking: Ranking, store: Store) -> None:
        self._plan = plan
        self._groups = groups
        self._ranking = ranking
        self._store = store

    def modules(self, form: Form | None) -> tuple[Any, ...]:
        """Return the module in this form: one, its parts where it is split, none where there is no form."""
        if form is None:
            return ()
        thinned = self._thinned(form)
        if form.split is None:
            return (thinned,)
        parts: tuple[Layer, ...] = self._keep("parts", form, lambda: self._split(form, form.split, thinned))
        return parts

    def _thinned(self, form: Form) -> nn.Module:
        if not any(form.removed):
            return self._plan.modules[form.module]
        thinned: nn.Module = self._keep("thinned", Form(form.module, form.removed), lambda: self._remove(form))
        return thinned

    def rounded(self, form: Form, part: int, layer: WeightedLayer, weight_bits: int) -> WeightedLayer:
        """Return one of the form's parts, with its own weights, rounded to so many bits."""
        key = (form, part, weight_bits)
        rounded: WeightedLayer = self._keep("rounded", key, lambda: layer.rounded(weight_bits))
        return rounded

    def _keep(self, part: str, key: Any, make: Any) -> Any:
        return self._store.get_or_make((part, key), make)

    def _split(self, form: Form, split: Decompose, thinned: nn.Module) -> tuple[nn.Module, ...]:
        if split.kind != "svd":
            return tuple(split_layer(form.module, thinned, split.rank, split))
        whole = Form(form.module, form.removed)
        singular = self._keep("singular", whole, lambda: singular_values(form.module, thinned))
        return tuple(split_by(singular, thinned, split.rank))

    def _remove(self, form: Form) -> nn.Module:
        module = copy.deepcopy(self._plan.modules[form.module])
        given_up: dict[str, set[int]] = defaultdict(set)
        for position, count in zip(self._plan.groups_of[form.module], form.removed, strict=True):
            group = self._groups[position]
            mine = [it for it in group.couplings if it.module == form.module]
            for channel in self._ranking[group.name][:count] if count else ():
                for coupling in mine:
                    given_up[coupling.side].update(coupling.indices[channel])
        for side, indices in given_up.items():
            remove_channels(module, side, sorted(indices))
        return module


def without_weights(layer: Any) -> Any:
    """Return the layer's settings alone: kept with other weights, it keeps none that the store does not count."""
    settings = copy.copy(layer)
    settings.__dict__["_parameters"] = dict.fromkeys(("weight", "bias"))
    return settings
