from dataclasses import fields

import pytest
from gulliver.spaces.plain import why_not_plain
from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify

PLAIN = {"sparsify": Sparsify(0.5), "decompose": Decompose(3, "tucker2"), "quantize": Quantize(4, 5, "entropy")}

# Another value than the default for every field, each with what else it needs to be allowed.
OTHER = {
    "sparsify": {"kind": {"kind": "2:4"}, "criterion": {"criterion": "taylor"}, "reconstruct": {"reconstruct": True}},
    "decompose": {
        "in_rank": {"in_rank": 2, "kind": "tucker2"},
        "data_aware": {"data_aware": True, "kind": "svd"},
    },
    "quantize": {
        "symmetric": {"symmetric": False},
        "weight_scales": {"weight_scales": "mse"},
        "group_size": {"group_size": 4},
        "rounding": {"rounding": "gptq"},
        "equalize": {"equalize": True},
        "correct_bias": {"correct_bias": True},
        "smooth": {"smooth": 0.5},
        "per_channel": {"per_channel": False},
        "symmetric_weights": {"symmetric_weights": False, "group_size": 4},
    },
}
PLAIN_FIELDS = {
    "sparsify": {"ratio"},
    "decompose": {"rank", "kind"},
    "quantize": {"weight_bits", "activation_bits", "calibrator"},
}


def fields_of(choice):
    return {item.name for item in fields(choice)}


def test_a_recipe_of_ratios_ranks_and_bits_with_their_kinds_and_calibrators_is_plain():
    layers = {"nothing": LayerRecipe(fallback="the target has none"), "all": LayerRecipe(**PLAIN)}
    assert why_not_plain(Recipe(layers | {slot: LayerRecipe(**{slot: it}) for slot, it in PLAIN.items()})) is None


def test_every_field_that_a_choice_has_is_plain_or_tested_here():
    assert fields_of(LayerRecipe) == {*PLAIN, "fallback"}
    assert all(fields_of(PLAIN[slot]) == PLAIN_FIELDS[slot] | OTHER[slot].keys() for slot in PLAIN)
    assert fields_of(Recipe) == {"layers", "finetune", "found_for"}


@pytest.mark.parametrize(("slot", "field"), [(slot, field) for slot, others in OTHER.items() for field in others])
def test_a_field_at_another_value_than_its_default_is_not_plain(slot, field):
    plain = PLAIN[slot]
    choice = type(plain)(**{name: getattr(plain, name) for name in PLAIN_FIELDS[slot]} | OTHER[slot][field])
    recipe = Recipe({"first": LayerRecipe(**PLAIN), "second": LayerRecipe(**{slot: choice})})
    words = "second asks for more than a ratio, a rank of a kind and bits with a calibrator"
    assert why_not_plain(recipe) == f"{words}: {choice}"
