import pytest
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.tasks.errors import InputError


@pytest.mark.parametrize(
    ("channels", "multiples"),
    [
        (6, (6,)),
        (8, (8,)),
        (15, (15, 8)),
        (16, (16, 8)),
        (20, (20, 16, 8)),
        (32, (32, 24, 16, 8)),
        (64, (64, 48, 32, 24, 16, 8)),
        (72, (72, 64, 48, 32, 24, 16, 8)),
    ],
)
def test_liked_counts_are_multiples_of_16_and_of_8_up_to_32(channels, multiples, cpu):
    assert cpu.multiples(channels) == multiples


@pytest.mark.parametrize(
    ("channels", "kept"),
    [
        (320, (*range(320, 32, -16), 32, 24, 16, 8)),
        (328, (328, *range(320, 0, -32))),
        (1000, (1000, *range(960, 0, -64))),
        (1280, tuple(range(1280, 0, -64))),
        (2048, tuple(range(2048, 0, -128))),
    ],
)
def test_channels_of_groups_wider_than_20_times_16_are_removed_in_20_steps_at_most(channels, kept):
    target = Capabilities("bfloat16", {}, 16, 8, 32, channel_steps=20)
    assert target.kept(channels) == kept


def test_without_a_number_of_steps_every_multiple_may_be_kept(cpu):
    assert cpu.kept(2048) == cpu.multiples(2048)


def test_int8_runs_and_int4_does_not(cpu):
    assert cpu.runs("conv2d", Quantize(8, 8))
    assert not cpu.runs("conv2d", Quantize(4, 8))
    assert not cpu.runs("embedding", Quantize(8, 8))


def test_weights_in_fours_pay_in_the_widths_whose_zeros_are_skipped():
    target = Capabilities("float16", {}, 16, 16, 0, sparse_2_4=((8, 8), (16, 16)))
    assert target.skips_zeros(Quantize(8, 8))
    assert target.skips_zeros(None)
    assert not target.skips_zeros(Quantize(4, 8))
    assert not target.skips_zeros(Quantize(8, 8, group_size=32))


def test_a_precision_that_the_target_has_not_is_refused_with_what_it_has(cpu):
    recipe = Recipe({"a": LayerRecipe(quantize=Quantize()), "b": LayerRecipe(quantize=Quantize(4, 8))})
    with pytest.raises(InputError) as caught:
        cpu.check(recipe, {"a": "conv2d", "b": "linear"}, "cpu_openvino")
    assert str(caught.value) == (
        "cpu_openvino has no linear of 4-bit weights with 8-bit activations (it runs bfloat16, 8/8 bits), "
        "but b asks for it"
    )


def test_weights_in_groups_need_what_leaves_inputs_in_floating_point():
    target = Capabilities("float16", {"linear": ((8, 8), (4, 16))}, 16, 16, 0)
    target.check(Recipe({"a": LayerRecipe(quantize=Quantize(4, 8, group_size=32))}), {"a": "linear"}, "chip")
    with pytest.raises(InputError, match=r"chip has no linear of 8-bit weights with 16-bit activations .*, but a asks"):
        target.check(Recipe({"a": LayerRecipe(quantize=Quantize(8, 8, group_size=32))}), {"a": "linear"}, "chip")


def test_a_kind_without_integers_says_that_it_runs_in_floating_point_only():
    target = Capabilities("float16", {"conv2d": ((8, 8), (4, 8))}, 16, 16, 0)
    choice = LayerRecipe(quantize=Quantize())
    assert target.refusal("linear", choice, "chip").endswith("(it runs float16)")
    assert target.refusal("conv2d", choice, "chip").endswith("(it runs float16, 8/8 bits, 4/8 bits)")
    target.check(Recipe({"a": LayerRecipe()}), {"a": "linear"}, "chip")
