from dataclasses import replace

import optuna
import pytest
import torch
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.recipe import CALIBRATORS, DECOMPOSITIONS, Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import Channels, break_even_rank, channels_after
from gulliver.spaces.space import Space, SpaceOptions
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from optuna.trial import FixedTrial
from torch import nn

optuna.logging.set_verbosity(optuna.logging.WARNING)
CPU = Capabilities("bfloat16", dict.fromkeys(("conv1d", "conv2d", "linear"), ((8, 8),)), 16, 8, 32)
CHIP = Capabilities("float16", {"conv2d": ((8, 8), (4, 8)), "linear": ((8, 8),)}, 16, 16, 0)

ALL = SpaceOptions(((8, 8), (4, 8)), calibrators=CALIBRATORS, decompositions=DECOMPOSITIONS)


def changed(recipe, name, **slots):
    return Recipe({**recipe.layers, name: replace(recipe.layers[name], **slots)})


@pytest.fixture(params=["plain", "residual", "mixed"])
def graph(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[(CPU,), (CHIP,), (CHIP, ALL)], ids=["cpu", "chip", "all choices"])
def space(graph, request):
    return Space(graph, *request.param)


def test_dimensions_are_precisions_sparsities_and_ranks_in_a_fixed_order(residual):
    # At break-even, stem: 32*3*9 / (3*3 + 32*3) = 8.2, so no rank below it but 8; conv1: 32*48*9 / 240 = 57.6.
    assert [(it.name, it.rungs) for it in Space(residual, CPU).dimensions] == [
        ("precision/stem", 2),
        ("precision/conv1", 2),
        ("precision/conv2", 2),
        ("precision/linear", 2),
        ("sparsity/stem", 4),
        ("sparsity/conv1", 4),
        ("rank/stem", 3),
        ("rank/conv1", 3),
        ("rank/conv2", 3),
    ]


def test_ratios_leave_multiples_of_16_or_of_8_up_to_32(residual):
    space = Space(residual, CPU)
    for name, kept in (("stem", [32, 24, 16, 8]), ("conv1", [48, 32, 24, 16])):
        recipes = [space.decode({f"sparsity/{name}": rung}) for rung in range(4)]
        assert [channels_after(residual, recipe)[name].outputs for recipe in recipes] == kept


@pytest.mark.parametrize(("max_ratio", "kept"), [(0.75, [48, 32, 24, 16]), (0.9, [48, 32, 24, 16, 8]), (0, [48])])
def test_no_more_than_the_largest_ratio_is_offered(max_ratio, kept, residual):
    space = Space(residual, CPU, SpaceOptions(max_ratio=max_ratio))
    rungs = {dimension.name: dimension.rungs for dimension in space.dimensions}.get("sparsity/conv1", 1)
    recipes = [space.decode({"sparsity/conv1": rung}) for rung in range(rungs)]
    assert [channels_after(residual, recipe)["conv2"].inputs for recipe in recipes] == kept


def test_all_layers_of_a_group_get_one_ratio(residual):
    recipe = Space(residual, CPU).decode({"sparsity/stem": 2})
    assert recipe.layers["stem"].sparsify == recipe.layers["conv2"].sparsify == Sparsify(0.5, reconstruct=True)
    assert recipe.layers["conv1"].sparsify is None


def test_ranks_are_multiples_of_8_near_the_asked_shares_of_break_even(plain):
    # conv2 breaks even at 96: 0.67 * 96 = 64.3 and 0.33 * 96 = 31.7; pruned to 32 -> 32, at 48: 32.2 and 15.8.
    space = Space(plain, CPU)
    ranks = [space.decode({"rank/conv2": rung}).layers["conv2"].decompose for rung in range(3)]
    assert ranks == [None, Decompose(64), Decompose(32)]
    pruned = {"sparsity/conv1": 2, "sparsity/conv2": 2}
    ranks = [space.decode(pruned | {"rank/conv2": rung}).layers["conv2"].decompose for rung in range(3)]
    assert ranks == [None, Decompose(32), Decompose(16)]


def test_a_layer_that_breaks_even_below_every_rank_that_the_target_likes_is_not_split():
    # Linear layers break even at 24 * 24 / 48 = 12 and 64 * 64 / 128 = 32, where 16 is the nearest to both shares.
    graph = trace(nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 64), nn.Linear(64, 64)), (torch.zeros(1, 24),))
    space = Space(graph, replace(CPU, small_channels=0))
    assert splits_at(space, "0", 24, 24) == ()
    assert splits_at(space, "2", 64, 64) == (Decompose(16), Decompose(16))


def random_rungs(space, count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield {it.name: int(torch.randint(it.rungs, (), generator=generator)) for it in space.dimensions}


def test_every_rank_saves_multiply_accumulates(space):
    ranks = 0
    for recipe in map(space.decode, random_rungs(space, 100)):
        channels = channels_after(space.graph, recipe)
        for name, choice in recipe.layers.items():
            if choice.decompose:
                kind = choice.decompose.kind
                assert choice.decompose.rank < break_even_rank(space.graph.layers[name], channels[name], kind)
                ranks += 1
    assert ranks > 20


def test_grouped_and_one_dimensional_layers_have_no_rank(mixed):
    names = {dimension.name for dimension in Space(mixed, CPU).dimensions}
    assert not names & {"rank/depthwise", "rank/grouped"}
    graph = one_dimensional()
    assert {dimension.method for dimension in Space(graph, CPU).dimensions} == {"precision", "sparsity"}


def one_dimensional():
    network = nn.Sequential(nn.Conv1d(64, 64, 3), nn.Conv1d(64, 64, 3)).eval()
    return trace(network, (torch.zeros(1, 64, 20),))


def splits_at(space, name, inputs, outputs):
    return space.splits(space.graph.layers[name], Channels(inputs, outputs))


def test_all_bits_are_offered_with_every_calibrator(plain):
    space = Space(plain, CHIP, SpaceOptions(calibrators=("mse", "min_max")))
    offered = [space.decode({"precision/conv1": rung}).layers["conv1"].quantize for rung in range(5)]
    assert offered == [
        None,
        Quantize(8, 8, "mse"),
        Quantize(8, 8, "min_max"),
        Quantize(4, 8, "mse"),
        Quantize(4, 8, "min_max"),
    ]
    rungs = {it.name: it.rungs for it in space.dimensions if it.method == "precision"}
    assert rungs == {"precision/conv1": 5, "precision/conv2": 5, "precision/linear": 3}


def test_every_kind_of_split_has_ranks_near_the_asked_shares_of_its_own_break_even(plain):
    # conv2 breaks even at 96, 57.6 and 57.3: 64.3 and 31.7; 38.6 and 19.0; 38.4 and 18.9.
    space = Space(plain, CPU, SpaceOptions(decompositions=("svd", "channel_svd", "tucker2")))
    assert splits_at(space, "conv2", 64, 64) == (
        Decompose(64),
        Decompose(32),
        *(Decompose(rank, kind) for kind in ("channel_svd", "tucker2") for rank in (32, 16)),
    )
    decoded = [space.decode({"rank/conv2": rung}).layers["conv2"].decompose for rung in range(7)]
    assert decoded == [None, *splits_at(space, "conv2", 64, 64)]


def test_a_rung_is_of_one_kind_at_all_channel_counts_and_whole_where_that_kind_saves_nothing(residual):
    # conv1 breaks even at its 32 inputs and 57.6: 21.4 and 10.6, 38.6 and 19.0. With 8 inputs at these 8 and at 20.6.
    space = Space(residual, CPU, SpaceOptions(decompositions=("tucker2", "svd")))
    whole = (Decompose(24, "tucker2"), Decompose(8, "tucker2"), Decompose(32), Decompose(16))
    assert splits_at(space, "conv1", 32, 48) == whole
    assert splits_at(space, "conv1", 8, 48) == (None, None, Decompose(16), Decompose(8))
    recipe = space.decode({"sparsity/stem": 3, "rank/conv1": 1})
    assert recipe.layers["conv1"].decompose is None
    assert space.encode(recipe)["rank/conv1"] == 0


def test_kinds_are_offered_only_to_layers_that_they_split_in_a_way_of_their_own(plain, mixed):
    def ranked(graph, *kinds):
        dimensions = Space(graph, CPU, SpaceOptions(decompositions=kinds)).dimensions
        return {it.owner: it.rungs for it in dimensions if it.method == "rank"}

    assert ranked(plain, "svd") == {"conv1": 3, "conv2": 3, "linear": 3}
    assert ranked(plain, "svd", "tucker2") == {"conv1": 3, "conv2": 5, "linear": 3}
    assert ranked(plain, "tucker2") == {"conv2": 3}
    assert not {"depthwise", "grouped", "join"} & ranked(mixed, "tucker2").keys()
    assert ranked(one_dimensional(), "svd", "channel_svd", "tucker2") == {"0": 5, "1": 5}


def test_kinds_that_are_not_offered_are_noted_once_for_layers_that_are_alike(plain, mixed):
    def notes(graph, *kinds):
        return [
            it for it in Space(graph, CPU, SpaceOptions(decompositions=kinds)).notes if "_svd" in it or "tuck" in it
        ]

    assert notes(plain, "svd", "channel_svd", "tucker2") == [
        "linear: channel_svd is not offered, because svd is the same there",
        "linear: tucker2 is not offered, because two layers give as much there",
    ]
    assert notes(mixed, "channel_svd") == [
        "conv2d 1x1: channel_svd is not offered, because svd is the same there",
        "grouped conv2d 3x3: channel_svd is not offered, because its channels are in groups",
    ]


def test_encoding_what_is_decoded_gives_the_same_recipe(space):
    for rungs in random_rungs(space, 200):
        recipe = space.decode(rungs)
        encoded = space.encode(recipe)
        assert space.decode(encoded) == recipe
        assert list(encoded) == [dimension.name for dimension in space.dimensions]
        differing = {name for name in rungs if rungs[name] != encoded[name]}
        # Two rungs are one recipe only where a thinned layer has fewer ranks left than rungs.
        assert all(name.startswith("rank/") for name in differing)


def test_trials_of_every_kind_suggest_the_same_recipe(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(5):
        trial = study.ask()
        recipe = space.suggest(trial)
        study.tell(trial, 0.0)
        assert space.decode(trial.params) == recipe
        assert space.suggest(study.trials[-1]) == recipe
        assert space.suggest(FixedTrial(trial.params)) == recipe
        assert set(trial.params) == {dimension.name for dimension in space.dimensions}


def test_an_enqueued_recipe_is_the_one_that_is_suggested(space):
    study = optuna.create_study()
    recipe = space.uniform(0.5, rank_rung=1)
    study.enqueue_trial(space.encode(recipe))
    assert space.suggest(study.ask()) == recipe


def test_four_bits_are_not_offered_on_the_cpu_and_a_note_says_so(plain):
    space = Space(plain, CPU)
    assert {it.rungs for it in space.dimensions if it.method == "precision"} == {2}
    assert space.notes == (
        "conv2d: 4-bit weights with 8-bit activations are not offered, because the target has no such kernel",
        "linear: 4-bit weights with 8-bit activations are not offered, because the target has no such kernel",
        "linear: channels are not removed, because its channels are the network's outputs",
    )


def test_four_bits_are_offered_where_the_target_has_them(plain):
    space = Space(plain, CHIP)
    rungs = {it.name: it.rungs for it in space.dimensions if it.method == "precision"}
    assert rungs == {"precision/conv1": 3, "precision/conv2": 3, "precision/linear": 2}
    assert space.decode({"precision/conv1": 2}).layers["conv1"].quantize == Quantize(4, 8)
    assert [note for note in space.notes if "4-bit" in note] == [
        "linear: 4-bit weights with 8-bit activations are not offered, because the target has no such kernel"
    ]


def test_a_target_without_channel_sparsity_is_offered_none(plain):
    space = Space(plain, replace(CPU, sparsities=()))
    assert {dimension.method for dimension in space.dimensions} == {"precision", "rank"}


def test_layers_kept_in_floating_point_have_no_precision_and_say_why(plain):
    space = Space(plain, CPU, SpaceOptions(keep_float=("conv1", "linear")))
    names = [dimension.name for dimension in space.dimensions if dimension.method == "precision"]
    assert names == ["precision/conv2"]
    layers = space.uniform().layers
    assert layers["conv1"] == LayerRecipe()
    assert layers["conv1"].fallback == "kept in floating point by space.keep_float"
    assert layers["conv2"] == LayerRecipe(quantize=Quantize(8, 8))
    assert layers["conv2"].fallback is None
    assert space.uniform(quantized=False).layers["conv2"].fallback == "the search chose bfloat16"


def test_a_kind_that_the_target_runs_in_floating_point_only_says_so(plain):
    space = Space(plain, Capabilities("float16", {"conv2d": ((8, 8),)}, 16, 16, 0))
    assert space.uniform().layers["linear"].fallback == "the target runs linear in float16 only"


def test_uniform_recipes_treat_every_layer_alike(residual):
    space = Space(residual, CPU)
    recipe = space.uniform(0.5)
    ratios = {name: choice.sparsify and choice.sparsify.ratio for name, choice in recipe.layers.items()}
    assert ratios == {"stem": 0.5, "conv1": 0.5, "conv2": 0.5, "linear": None}
    assert all(choice.quantize == Quantize(8, 8) for choice in recipe.layers.values())
    assert all(choice.quantize is None for choice in space.uniform(quantized=False).layers.values())
    ranks = {name: choice.decompose for name, choice in space.uniform(rank_rung=2).layers.items()}
    assert ranks["conv1"] == Decompose(16)


def test_an_empty_space_is_refused(plain):
    options = SpaceOptions(bits=((4, 8),), max_ratio=0, ranks=())
    with pytest.raises(InputError, match=r"^the space is empty: nothing that `space` allows can run on this target$"):
        Space(plain, CPU, options)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
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


def test_an_unknown_layer_to_keep_in_floating_point_is_refused(plain):
    rule = "^space.keep_float names conv9, which is no layer; layers are conv1, conv2, linear$"
    with pytest.raises(InputError, match=rule):
        Space(plain, CPU, SpaceOptions(keep_float=("conv1", "conv9")))


def test_tied_layers_with_different_ratios_cannot_be_encoded(residual):
    recipe = changed(Space(residual, CPU).decode({}), "stem", sparsify=Sparsify(0.5))
    with pytest.raises(InputError, match=r"but stem has ratio=0.5, conv2 has ratio=0.0$"):
        Space(residual, CPU).encode(recipe)


@pytest.mark.parametrize(
    ("name", "slots", "rule"),
    [
        ("conv1", {"quantize": Quantize(4, 8)}, "^precision/conv1 must be one of None, Quantize"),
        ("conv1", {"sparsify": Sparsify(0.1)}, r"^sparsity/conv1 must be one of 0.0, 0.25, 0.5, .* but is 0.1$"),
        ("conv2", {"decompose": Decompose(50)}, "^rank/conv2 must be one of None, 64, 32, but is 50$"),
        ("conv2", {"decompose": Decompose(64, "tucker2")}, "^rank/conv2 .* None, 64, 32, but is tucker2 64$"),
        ("conv2", {"decompose": Decompose(64, data_aware=True)}, "^conv2 must be LayerRecipe.*data_aware=False"),
        ("conv1", {"quantize": Quantize(8, 8, "mse")}, "^precision/conv1 must be .*'min_max'.* but is .*'mse'"),
        ("linear", {"quantize": Quantize(8, 8)}, "^linear must be LayerRecipe"),
    ],
)
def test_a_choice_that_is_not_offered_is_refused_by_name(name, slots, rule, plain):
    space = Space(plain, CPU, SpaceOptions(keep_float=("linear",)))
    with pytest.raises(InputError, match=rule):
        space.encode(changed(space.decode({}), name, **slots))


def test_a_ratio_by_another_criterion_cannot_be_encoded(plain):
    space = Space(plain, CPU)
    asked = Sparsify(0.5, criterion="fisher", reconstruct=True)
    with pytest.raises(InputError, match=r"^conv1 must be LayerRecipe.*'magnitude'.*, but is LayerRecipe.*'fisher'"):
        space.encode(changed(space.decode({}), "conv1", sparsify=asked))


@pytest.mark.parametrize("reconstruct", [True, False])
def test_readers_of_removed_channels_are_reconstructed_where_the_space_says_so(reconstruct, plain):
    space = Space(plain, CPU, SpaceOptions(reconstruct=reconstruct))
    recipe = space.decode({"sparsity/conv1": 2})
    assert recipe.layers["conv1"].sparsify == Sparsify(0.5, reconstruct=reconstruct)
    assert space.encode(recipe)["sparsity/conv1"] == 2


def test_a_ratio_of_zero_is_encoded_as_no_sparsity(plain):
    space = Space(plain, CPU)
    assert space.encode(changed(space.decode({}), "conv1", sparsify=Sparsify(0.0)))["sparsity/conv1"] == 0


def test_layers_of_a_module_that_is_not_traced_into_are_said_to_be_left_alone():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    network = nn.Sequential(encoder, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    notes = Space(trace(network, (torch.zeros(1, 5, 16),)), CPU).notes
    assert notes[0] == "0: its layers (6) are not compressed, because it is not traced into"
