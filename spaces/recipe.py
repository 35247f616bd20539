"""A recipe: what happens to every layer of a network. The one data structure that every room speaks."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gulliver.spaces.quoted import quoted
from gulliver.tasks.errors import InputError

WEIGHT_BITS = range(2, 9)
ACTIVATION_BITS = range(4, 17)
FLOAT_BITS = 16
RANKS = range(1, 1 << 31)
SPARSITIES = ("channel", "2:4", "unstructured")
CRITERIA = ("magnitude", "batch_norm_scale", "taylor", "fisher")
DECOMPOSITIONS = ("svd", "channel_svd", "tucker2")
CALIBRATORS = ("min_max", "percentile", "entropy", "mse")
WEIGHT_SCALES = ("max", "mse")
ROUNDINGS = ("nearest", "gptq", "adaround")
GROUP_SIZES = range(1, 1 << 31)
_EPOCHS = range(1, 10_001)
_BATCHES = range(1, 1 << 31)

# Fields that are younger than the first recipes: left out of keys and files at their defaults, so that those stay.
_YOUNGER = {"younger": True}

# What fine-tuning takes its steps with.
MUON, SGD = "muon", "sgd"


@dataclass(frozen=True)
class Sparsify:
    """Remove this share of the layer's output channels, the least important by the criterion first.

    With `reconstruct`, the layers that read the others are solved anew to give what they gave (least squares).
    The kind "2:4" leaves the channels and zeroes two of every four weights instead; its ratio is 0.5. "unstructured"
    zeroes this share of the weights wherever they are.
    """

    ratio: float
    kind: str = "channel"
    criterion: str = field(default="magnitude", metadata=_YOUNGER)
    reconstruct: bool = field(default=False, metadata=_YOUNGER)


# What a search chooses where it makes a layer 2:4.
IN_FOURS = Sparsify(0.5, "2:4")


@dataclass(frozen=True)
class Decompose:
    """Replace the layer by thinner ones with `rank` channels between them.

    "svd" splits a convolution in two along its kernel, "channel_svd" into one of the same kernel and a 1 x 1, "tucker2"
    into a core between two 1 x 1, whose inputs have `in_rank` channels (`rank` if left out). If `data_aware`, the
    outputs on the calibration inputs are kept rather than the weights.
    """

    rank: int
    kind: str = "svd"
    in_rank: int | None = field(default=None, metadata=_YOUNGER)
    data_aware: bool = field(default=False, metadata=_YOUNGER)


@dataclass(frozen=True)
class Quantize:
    """Run the layer on integers of these widths, one scale for each output channel and one for the inputs.

    `calibrator` chooses the range of the inputs, `weight_scales` that of the weights; inputs that are not `symmetric`
    have a zero point, and all weights have one scale if not `per_channel`. Weights in groups of `group_size` inputs
    have a scale each, and a zero point if not `symmetric_weights`; the layer's inputs then stay in floating point.
    `rounding` "gptq" lets later weights make good what earlier ones lose, "adaround" learns whether each is rounded up
    or down, `equalize` scales channels between the layer and the one before it, `correct_bias` takes back the mean that
    rounding adds, `smooth` moves this share of how far a linear layer's input channels differ into its weights.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    calibrator: str = field(default="min_max", metadata=_YOUNGER)
    symmetric: bool = field(default=True, metadata=_YOUNGER)
    weight_scales: str = field(default="max", metadata=_YOUNGER)
    group_size: int | None = field(default=None, metadata=_YOUNGER)
    rounding: str = field(default="nearest", metadata=_YOUNGER)
    equalize: bool = field(default=False, metadata=_YOUNGER)
    correct_bias: bool = field(default=False, metadata=_YOUNGER)
    smooth: float | None = field(default=None, metadata=_YOUNGER)
    per_channel: bool = field(default=True, metadata=_YOUNGER)
    symmetric_weights: bool = field(default=True, metadata=_YOUNGER)

    @property
    def widths(self) -> tuple[int, int]:
        """Return the bits of weights and inputs as a target runs them, 16 where inputs stay in floating point."""
        return self.weight_bits, FLOAT_BITS if self.group_size is not None else self.activation_bits


@dataclass(frozen=True)
class LayerRecipe:
    """One layer's choice: an optional slot for each method, applied in this order.

    A layer that is not quantized stays in the target's floating-point type; `fallback` says why, and what else the
    layer could not take.
    """

    sparsify: Sparsify | None = None
    decompose: Decompose | None = None
    quantize: Quantize | None = None
    fallback: str | None = field(default=None, compare=False)

    @property
    def is_semi_structured(self) -> bool:
        """Say whether two of every four of the layer's weights are zero."""
        return self.sparsify is not None and self.sparsify.kind == "2:4"


@dataclass(frozen=True)
class Finetune:
    """Learn from the original network for some epochs after the layers are thinned, before they are quantized.

    `batches_per_epoch` ends an epoch early; None takes all of the task's batches. The `optimizer` is `muon` or `sgd`.
    If `quantization_aware`, a quantized network learns for as many epochs once more, its steps with its weights.
    `feature_weight` is the weight of what the last layer reads. With a `patience`, learning ends after so many epochs
    that came no nearer to the original on the calibration inputs, and the nearest epoch's network is taken.
    """

    epochs: int
    learning_rate: float = 0.15
    temperature: float = 4.0
    batches_per_epoch: int | None = None
    optimizer: str = MUON
    quantization_aware: bool = field(default=False, metadata=_YOUNGER)
    feature_weight: float = field(default=0.0, metadata=_YOUNGER)
    patience: int | None = field(default=None, metadata=_YOUNGER)


@dataclass(frozen=True)
class FoundFor:
    """The circumstances in which a recipe was found, and what was predicted and measured of it."""

    network: str | None = None
    task: str | None = None
    target: str | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Every layer's choice, by fully qualified name, plus what it was found for.

    Raises InputError, which names the layer and the rule, for a value out of range.
    """

    layers: Mapping[str, LayerRecipe]
    finetune: Finetune | None = field(default=None, compare=False)
    found_for: FoundFor = field(default_factory=FoundFor, compare=False)

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            _check_layer(name, layer)
        check_finetune(self.finetune)
        object.__setattr__(self, "layers", MappingProxyType(dict(sorted(self.layers.items()))))

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[type["Recipe"], tuple[dict[str, LayerRecipe], Finetune | None, FoundFor]]:
        return Recipe, (dict(self.layers), self.finetune, self.found_for)

    @cached_property
    def key(self) -> str:
        """Return 16 hexadecimal digits that are equal exactly where the layers' choices are."""
        layers = {name: layer_values(layer) | {"fallback": None} for name, layer in self.layers.items()}
        for choice in layers.values():
            for slot, share in (("sparsify", "ratio"), ("quantize", "smooth")):
                values = choice[slot] or {}
                if values.get(share) is not None:
                    # A share of 0, 0.0 or -0.0 is one choice, but three texts.
                    values[share] = abs(float(values[share]))
        return hashlib.sha256(json.dumps(layers, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the recipe to a YAML file, sorted and atomically."""
        from gulliver.spaces.recipe_file import write_recipe

        write_recipe(self, Path(path))


def layer_values(layer: LayerRecipe) -> dict[str, Any]:
    """Return the layer's choice as plain dictionaries; see `choice_values`."""
    slots = {slot: getattr(layer, slot) for slot in ("sparsify", "decompose", "quantize")}
    values = {slot: None if choice is None else choice_values(choice) for slot, choice in slots.items()}
    return {**values, "fallback": layer.fallback}


def choice_values(choice: Any) -> dict[str, Any]:
    """Return the fields of one method's choice, without those at their defaults that are younger than the format."""
    values = {item.name: (getattr(choice, item.name), item) for item in fields(choice)}
    return {
        name: value for name, (value, item) in values.items() if "younger" not in item.metadata or value != item.default
    }


def _is_number(value: object) -> bool:
    # Whole numbers have no end, but those that are no floating-point numbers are no use.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value: object, allowed: range) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in allowed


def _one_of(key: str, allowed: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    """Return the rule, in words and as a test, that the value is one of these names."""
    return f"`{key}` must be {' or '.join(map(repr, allowed))}", lambda value: value in allowed


def _yes_or_no(key: str) -> tuple[str, Callable[[Any], bool]]:
    return f"`{key}` must be true or false", lambda value: isinstance(value, bool)


def _above_zero(key: str) -> tuple[str, Callable[[Any], bool]]:
    return f"`0 < {key} < inf` must hold", lambda value: _is_number(value) and value > 0


_RULES: tuple[tuple[str, str, str, Callable[[Any], bool]], ...] = (
    ("sparsify", "kind", *_one_of("kind", SPARSITIES)),
    ("sparsify", "ratio", "`0 <= ratio < 1` must hold", lambda ratio: _is_number(ratio) and 0 <= ratio < 1),
    ("sparsify", "criterion", *_one_of("criterion", CRITERIA)),
    ("sparsify", "reconstruct", *_yes_or_no("reconstruct")),
    ("decompose", "kind", *_one_of("kind", DECOMPOSITIONS)),
    ("decompose", "rank", "`rank >= 1` must hold, whole", lambda rank: _is_whole(rank, RANKS)),
    (
        "decompose",
        "in_rank",
        "`in_rank >= 1` must hold, whole, or be left out",
        lambda rank: rank is None or _is_whole(rank, RANKS),
    ),
    ("decompose", "data_aware", *_yes_or_no("data_aware")),
    (
        "quantize",
        "weight_bits",
        "`2 <= weight_bits <= 8` must hold, whole",
        lambda bits: _is_whole(bits, WEIGHT_BITS),
    ),
    (
        "quantize",
        "activation_bits",
        "`4 <= activation_bits <= 16` must hold, whole",
        lambda bits: _is_whole(bits, ACTIVATION_BITS),
    ),
    ("quantize", "calibrator", *_one_of("calibrator", CALIBRATORS)),
    ("quantize", "symmetric", *_yes_or_no("symmetric")),
    ("quantize", "weight_scales", *_one_of("weight_scales", WEIGHT_SCALES)),
    (
        "quantize",
        "group_size",
        "`group_size >= 1` must hold, whole, or be left out",
        lambda size: size is None or _is_whole(size, GROUP_SIZES),
    ),
    ("quantize", "rounding", *_one_of("rounding", ROUNDINGS)),
    ("quantize", "equalize", *_yes_or_no("equalize")),
    ("quantize", "correct_bias", *_yes_or_no("correct_bias")),
    (
        "quantize",
        "smooth",
        "`0 <= smooth <= 1` must hold, or it be left out",
        lambda share: share is None or (_is_number(share) and 0 <= share <= 1),
    ),
    ("quantize", "per_channel", *_yes_or_no("per_channel")),
    ("quantize", "symmetric_weights", *_yes_or_no("symmetric_weights")),
)


_FINETUNE_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("epochs", "`1 <= epochs <= 10000` must hold, whole", lambda epochs: _is_whole(epochs, _EPOCHS)),
    (
        "batches_per_epoch",
        "`batches_per_epoch >= 1` must hold, whole",
        lambda batches: batches is None or _is_whole(batches, _BATCHES),
    ),
    ("quantization_aware", *_yes_or_no("quantization_aware")),
    (
        "patience",
        "`1 <= patience <= 10000` must hold, whole",
        lambda patience: patience is None or _is_whole(patience, _EPOCHS),
    ),
    (
        "feature_weight",
        "`0 <= feature_weight < inf` must hold",
        lambda weight: _is_number(weight) and weight >= 0,
    ),
    ("optimizer", *_one_of("optimizer", (MUON, SGD))),
    ("learning_rate", *_above_zero("learning_rate")),
    ("temperature", *_above_zero("temperature")),
)


def _check_layer(name: str, layer: LayerRecipe) -> None:
    for slot, key, rule, holds in _RULES:
        choice = getattr(layer, slot)
        if choice is not None and not holds(getattr(choice, key)):
            raise InputError(f"{rule}, but {name} has {key}={quoted(getattr(choice, key))}")
    if layer.sparsify is not None and layer.sparsify.kind != "channel":
        _check_zeros(name, layer.sparsify, layer.decompose)
    if layer.decompose is not None:
        _check_decompose(name, layer.decompose)
    if layer.quantize is not None:
        _check_quantize(name, layer.quantize)


def _check_zeros(name: str, sparsify: Sparsify, decompose: Decompose | None) -> None:
    kind = sparsify.kind
    if kind == "2:4" and sparsify.ratio != 0.5:
        raise InputError(f"kind='2:4' must have ratio=0.5, but {name} has ratio={sparsify.ratio!r}")
    if decompose is not None:
        raise InputError(f"kind={kind!r} must not be decomposed, which undoes it, but {name} has rank={decompose.rank}")


def _check_decompose(name: str, choice: Decompose) -> None:
    if choice.kind != "tucker2" and choice.in_rank is not None:
        raise InputError(f"only kind='tucker2' has an `in_rank`, but {name} has kind={choice.kind!r} with one")
    if choice.kind == "tucker2" and choice.data_aware:
        raise InputError(f"kind='tucker2' must not be `data_aware`, but {name} has both")


def _check_quantize(name: str, choice: Quantize) -> None:
    if choice.group_size is not None and not choice.per_channel:
        size = choice.group_size
        raise InputError(
            f"`per_channel` must be true with a `group_size`, but {name} has it false and group_size={size}"
        )
    if choice.group_size is None and not choice.symmetric_weights:
        # Integer kernels have no zero points for weights: OpenVINO 2026.4 runs such layers in float32.
        raise InputError(f"`symmetric_weights` must be true without a `group_size`, but {name} has it false")


def check_finetune(finetune: Finetune | None) -> None:
    """Raise InputError where a setting of the fine-tuning is out of range."""
    if finetune is None:
        return
    for key, rule, holds in _FINETUNE_RULES:
        value = getattr(finetune, key)
        if not holds(value):
            raise InputError(f"{rule}, but finetune has {key}={quoted(value)}")
