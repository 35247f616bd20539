import pytest
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (
            {"bits": ((8, 8), (9, 8))},
            "`2 <= weight bits <= 8` and `4 <= activation bits <= 16` must hold for space.bits, but one is [9, 8]",
        ),
        (
            {"bits": ((8, 2),)},
            "`2 <= weight bits <= 8` and `4 <= activation bits <= 16` must hold for space.bits, but one is [8, 2]",
        ),
        ({"max_ratio": 1}, "`0 <= space.max_ratio < 1` must hold, but it is 1"),
        ({"max_ratio": -0.5}, "`0 <= space.max_ratio < 1` must hold, but it is -0.5"),
        ({"ranks": (0.5, 1.0)}, "`0 < rank < 1` must hold for space.ranks, but one is 1.0"),
        (
            {"calibrators": ("min_max", "kl")},
            "space.calibrators must be one or more different ones of min_max, percentile, entropy, mse, "
            "but are min_max, kl",
        ),
        (
            {"decompositions": ("svd", "svd")},
            "space.decompositions must be one or more different ones of svd, channel_svd, tucker2, but are svd, svd",
        ),
        (
            {"decompositions": ()},
            "space.decompositions must be one or more different ones of svd, channel_svd, tucker2, but are none",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, rule):
    with pytest.raises(InputError) as caught:
        SpaceOptions(**options)
    assert str(caught.value) == rule
