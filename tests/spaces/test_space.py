from dataclasses import replace

import optuna
import pytest
import torch
from gulliver.spaces.capabilities import Capabilities
from gulliver.spaces.recipe import CALIBRATORS, DECOMPOSITIONS, Decompose, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.spaces.shapes import break_even_rank, channels_after
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from optuna.trial import FixedTrial

optuna.logging.set_verbosity(optuna.logging.WARNING)
CPU = Capabilities("bfloat16", dict.fromkeys(("conv1d", "conv2d", "linear"), ((8, 8),)), 16, 8, 32)
CHIP = Capabilities("float16", {"conv2d": ((8, 8), (4, 8)), "linear": ((8, 8),)}, 16, 16, 0)
SPARSE = replace(CHIP, sparse_2_4=((8, 8),))

ALL = SpaceOptions(((8, 8), (4, 8)), calibrators=CALIBRATORS, decompositions=DECOMPOSITIONS)


def changed(recipe, name, **slots):
    return Recipe({**recipe.layers, name: replace(recipe.layers[name], **slots)})


@pytest.fixture(params=["plain", "residual", "mixed"])
def graph(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[(CPU,), (CHIP,), (SPARSE, ALL)], ids=["cpu", "chip", "all choices"])
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


def test_all_layers_of_a_group_get_one_ratio(residual):
    recipe = Space(residual, CPU).decode({"sparsity/stem": 2})
    assert recipe.layers["stem"].sparsify == recipe.layers["conv2"].sparsify == Sparsify(0.5, reconstruct=True)
    assert recipe.layers["conv1"].sparsify is None


def test_weights_are_in_fours_where_no_channel_goes_and_no_rank_splits(residual):
    space = Space(residual, SPARSE)
    fours = {"pattern/conv1": 1}
    assert space.decode(fours).layers["conv1"].sparsify == Sparsify(0.5, "2:4")
    assert space.decode(fours | {"sparsity/conv1": 1}).layers["conv1"].sparsify.kind == "channel"
    split = space.decode(fours | {"rank/conv1": 1}).layers["conv1"]
    assert (split.sparsify, split.decompose is None) == (None, False)
    # The inputs that other layers lose come in fours, too.
    assert space.decode(fours | {"sparsity/stem": 1}).layers["conv1"].sparsify == Sparsify(0.5, "2:4")


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


def test_encoding_what_is_decoded_gives_the_same_recipe(space):
    for rungs in random_rungs(space, 200):
        recipe = space.decode(rungs)
        encoded = space.encode(recipe)
        assert space.decode(encoded) == recipe
        assert list(encoded) == [dimension.name for dimension in space.dimensions]
        differing = {name for name in rungs if rungs[name] != encoded[name]}
        # Two rungs are one recipe only where a layer has fewer ranks left than rungs, or is thinned and not in fours.
        assert all(name.startswith(("rank/", "pattern/")) for name in differing)


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
