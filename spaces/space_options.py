"""What a search may choose from, whatever the network and the target."""

from dataclasses import dataclass, field

from gulliver.spaces.recipe import ACTIVATION_BITS, CALIBRATORS, DECOMPOSITIONS, WEIGHT_BITS
from gulliver.tasks.errors import InputError


@dataclass(frozen=True)
class SpaceOptions:
    """What a search may choose from: bits of weights and activations, largest sparsity, ranks.

    `ranks` are shares of the rank at which splitting a layer stops saving multiply-accumulates. With `reconstruct`,
    layers that read removed channels are solved anew (compressors/reconstruct.py). All bits are offered with each of
    the `calibrators`, and ranks of each of the `decompositions`. With `semi_structured`, weights may be 2:4 where the
    target gains from it.
    """

    bits: tuple[tuple[int, int], ...] = ((8, 8), (4, 8))
    max_ratio: float = 0.75
    ranks: tuple[float, ...] = (0.67, 0.33)
    keep_float: tuple[str, ...] = ()
    reconstruct: bool = True
    # Younger than the first searches: left out of their settings at the defaults, so that they still open.
    calibrators: tuple[str, ...] = field(default=("min_max",), metadata={"younger": True})
    decompositions: tuple[str, ...] = field(default=("svd",), metadata={"younger": True})
    semi_structured: bool = field(default=True, metadata={"younger": True})

    def __post_init__(self) -> None:
        if not 0 <= self.max_ratio < 1:
            raise InputError(f"`0 <= space.max_ratio < 1` must hold, but it is {self.max_ratio}")
        _check_bits(self.bits)
        for rank in self.ranks:
            if not 0 < rank < 1:
                raise InputError(f"`0 < rank < 1` must hold for space.ranks, but one is {rank}")
        for key, known in (("calibrators", CALIBRATORS), ("decompositions", DECOMPOSITIONS)):
            names = getattr(self, key)
            if not names or not {*names} <= {*known} or len({*names}) < len(names):
                raise InputError(
                    f"space.{key} must be one or more different ones of {', '.join(known)}, "
                    f"but are {', '.join(names) or 'none'}"
                )


def _check_bits(bits: tuple[tuple[int, int], ...]) -> None:
    for weight_bits, activation_bits in bits:
        if weight_bits not in WEIGHT_BITS or activation_bits not in ACTIVATION_BITS:
            raise InputError(
                "`2 <= weight bits <= 8` and `4 <= activation bits <= 16` must hold for space.bits, "
                f"but one is [{weight_bits}, {activation_bits}]"
            )
