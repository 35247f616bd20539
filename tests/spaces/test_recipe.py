import copy
import pickle
from dataclasses import replace

import pytest
from gulliver.spaces.recipe import Decompose, Finetune, FoundFor, LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.tasks.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

LAYER = "layer2.0.conv1"

choices = st.builds(
    LayerRecipe,
    st.none()
    | st.builds(
        Sparsify,
        st.sampled_from([0, 0.0, -0.0, 0.25, 0.5]),
        criterion=st.sampled_from(["magnitude", "taylor"]),
        reconstruct=st.booleans(),
    ),
    st.none() | st.builds(Decompose, st.integers(1, 3)),
    st.none()
    | st.builds(
        Quantize,
        st.sampled_from([4, 8]),
        st.sampled_from([8, 16]),
        symmetric=st.booleans(),
        smooth=st.sampled_from([None, 0, 0.0, -0.0, 1, 1.0]),
    ),
    st.none() | st.sampled_from(["the search chose bfloat16", "too sensitive"]),
)
recipes = st.builds(
    Recipe,
    st.dictionaries(st.sampled_from(["a", "b"]), choices),
    st.none() | st.just(Finetune(1)),
    st.builds(FoundFor, seed=st.none() | st.integers(0, 1)),
)


@given(recipes, recipes)
def test_keys_are_equal_exactly_where_the_layers_choices_are(first, second):
    assert (first.key == second.key) == (dict(first.layers) == dict(second.layers)) == (first == second)
    if first == second:
        assert hash(first) == hash(second)


def test_a_key_is_of_16_hexadecimal_digits_and_never_changes():
    # Studies and MLflow runs of the past are found by it.
    recipe = Recipe({"b": LayerRecipe(Sparsify(0.5), Decompose(8), Quantize(4, 8)), "a": LayerRecipe()})
    assert recipe.key == "5db7528da90e53e6"


def test_a_share_is_one_choice_whether_it_is_written_as_a_whole_number_or_not():
    first, second = (Recipe({"a": LayerRecipe(quantize=Quantize(smooth=share))}) for share in (1, 1.0))
    assert (first, hash(first)) == (second, hash(second))


def test_what_a_recipe_was_found_for_is_not_part_of_it():
    choice = LayerRecipe(quantize=Quantize())
    plain = Recipe({"a": choice})
    assert plain == Recipe({"a": choice}, Finetune(3), FoundFor(task="digits"))
    assert plain == Recipe({"a": replace(choice, fallback="a reason")})
    assert plain != Recipe({"a": choice, "b": LayerRecipe()})
    assert plain != Recipe({"a": LayerRecipe(quantize=Quantize(4, 8))})


def test_the_order_in_which_layers_are_given_is_forgotten():
    first, second = LayerRecipe(Sparsify(0.5)), LayerRecipe(quantize=Quantize())
    recipe = Recipe({"b": second, "a": first})
    assert recipe == Recipe({"a": first, "b": second})
    assert list(recipe.layers) == ["a", "b"]


def test_a_recipe_cannot_be_changed_through_the_dictionary_it_was_made_of():
    layers = {"a": LayerRecipe()}
    recipe = Recipe(layers)
    layers["b"] = LayerRecipe()
    assert list(recipe.layers) == ["a"]
    with pytest.raises(TypeError):
        recipe.layers["b"] = LayerRecipe()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda recipe: pickle.loads(pickle.dumps(recipe))])
def test_a_copied_or_pickled_recipe_is_the_same_with_all_that_equality_leaves_out(copied):
    recipe = Recipe(
        {"a": LayerRecipe(Sparsify(0.5), fallback="too sensitive"), "b": LayerRecipe(None, Decompose(3), Quantize())},
        Finetune(2, 0.1, 3.0),
        FoundFor("f00d", "digits", "cpu", 3, {"torch": "2.13"}, {"trial": 7}, {"latency_ms": 1.5}, {"latency_ms": 2.0}),
    )
    twin = copied(recipe)
    assert twin == recipe
    assert twin.key == recipe.key
    assert (twin.finetune, twin.found_for) == (recipe.finetune, recipe.found_for)
    assert twin.layers["a"].fallback == "too sensitive"


RATIO = "`0 <= ratio < 1` must hold"
SPARSITY = "`kind` must be 'channel' or '2:4' or 'unstructured'"
CRITERION = "`criterion` must be 'magnitude' or 'batch_norm_scale' or 'taylor' or 'fisher'"
KIND = "`kind` must be 'svd' or 'channel_svd' or 'tucker2'"
RANK = "`rank >= 1` must hold, whole"
WEIGHT = "`2 <= weight_bits <= 8` must hold, whole"
ACTIVATION = "`4 <= activation_bits <= 16` must hold, whole"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (LayerRecipe(Sparsify(1.2)), f"{RATIO}, but {LAYER} has ratio=1.2"),
        (LayerRecipe(Sparsify(1)), f"{RATIO}, but {LAYER} has ratio=1"),
        (LayerRecipe(Sparsify(-0.1)), f"{RATIO}, but {LAYER} has ratio=-0.1"),
        (LayerRecipe(Sparsify(float("nan"))), f"{RATIO}, but {LAYER} has ratio=nan"),
        (LayerRecipe(Sparsify("half")), f"{RATIO}, but {LAYER} has ratio='half'"),
        (LayerRecipe(Sparsify(False)), f"{RATIO}, but {LAYER} has ratio=False"),
        (LayerRecipe(Sparsify(0.25, "2:4")), f"kind='2:4' must have ratio=0.5, but {LAYER} has ratio=0.25"),
        (
            LayerRecipe(Sparsify(0.5, "2:4"), Decompose(3)),
            f"kind='2:4' must not be decomposed, which undoes it, but {LAYER} has rank=3",
        ),
        (
            LayerRecipe(Sparsify(0.3, "unstructured"), Decompose(3)),
            f"kind='unstructured' must not be decomposed, which undoes it, but {LAYER} has rank=3",
        ),
        (LayerRecipe(Sparsify(0.5, "block")), f"{SPARSITY}, but {LAYER} has kind='block'"),
        (LayerRecipe(Sparsify(0.5, criterion="luck")), f"{CRITERION}, but {LAYER} has criterion='luck'"),
        (
            LayerRecipe(Sparsify(0.5, reconstruct=1)),
            f"`reconstruct` must be true or false, but {LAYER} has reconstruct=1",
        ),
        (LayerRecipe(None, Decompose(0)), f"{RANK}, but {LAYER} has rank=0"),
        (LayerRecipe(None, Decompose(2.5)), f"{RANK}, but {LAYER} has rank=2.5"),
        (LayerRecipe(None, Decompose(True)), f"{RANK}, but {LAYER} has rank=True"),
        (LayerRecipe(None, Decompose(1 << 20_000)), f"{RANK}, but {LAYER} has rank=a number of 20001 bits"),
        (LayerRecipe(None, Decompose(4, "cp")), f"{KIND}, but {LAYER} has kind='cp'"),
        (
            LayerRecipe(None, Decompose(4, "svd", 3)),
            f"only kind='tucker2' has an `in_rank`, but {LAYER} has kind='svd' with one",
        ),
        (
            LayerRecipe(None, Decompose(4, "tucker2", 0)),
            f"`in_rank >= 1` must hold, whole, or be left out, but {LAYER} has in_rank=0",
        ),
        (
            LayerRecipe(None, Decompose(4, "tucker2", data_aware=True)),
            f"kind='tucker2' must not be `data_aware`, but {LAYER} has both",
        ),
        (
            LayerRecipe(None, None, Quantize(smooth=1.5)),
            f"`0 <= smooth <= 1` must hold, or it be left out, but {LAYER} has smooth=1.5",
        ),
        (LayerRecipe(None, None, Quantize(1)), f"{WEIGHT}, but {LAYER} has weight_bits=1"),
        (LayerRecipe(None, None, Quantize(9)), f"{WEIGHT}, but {LAYER} has weight_bits=9"),
        (LayerRecipe(None, None, Quantize(8.0)), f"{WEIGHT}, but {LAYER} has weight_bits=8.0"),
        (LayerRecipe(None, None, Quantize(8, 3)), f"{ACTIVATION}, but {LAYER} has activation_bits=3"),
        (
            LayerRecipe(None, None, Quantize(calibrator="max")),
            f"`calibrator` must be 'min_max' or 'percentile' or 'entropy' or 'mse', but {LAYER} has calibrator='max'",
        ),
        (
            LayerRecipe(None, None, Quantize(group_size=0)),
            f"`group_size >= 1` must hold, whole, or be left out, but {LAYER} has group_size=0",
        ),
        (
            LayerRecipe(None, None, Quantize(per_channel=0)),
            f"`per_channel` must be true or false, but {LAYER} has per_channel=0",
        ),
        (
            LayerRecipe(None, None, Quantize(group_size=8, per_channel=False)),
            f"`per_channel` must be true with a `group_size`, but {LAYER} has it false and group_size=8",
        ),
        (
            LayerRecipe(None, None, Quantize(symmetric_weights=False)),
            f"`symmetric_weights` must be true without a `group_size`, but {LAYER} has it false",
        ),
        (LayerRecipe(None, None, Quantize(8, 17)), f"{ACTIVATION}, but {LAYER} has activation_bits=17"),
        (LayerRecipe(None, None, Quantize(8, None)), f"{ACTIVATION}, but {LAYER} has activation_bits=None"),
    ],
)
def test_a_value_out_of_range_is_refused_with_layer_rule_and_value(choice, message):
    with pytest.raises(InputError) as caught:
        Recipe({"stem": LayerRecipe(), LAYER: choice})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "choice",
    [
        LayerRecipe(Sparsify(0)),
        LayerRecipe(Sparsify(0.999)),
        LayerRecipe(None, Decompose(1)),
        LayerRecipe(None, None, Quantize(2, 4)),
        LayerRecipe(None, Decompose(2**31 - 1, "tucker2", 1)),
        LayerRecipe(None, None, Quantize(8, 16)),
        LayerRecipe(None, None, Quantize(group_size=1, smooth=0)),
        LayerRecipe(None, None, Quantize(group_size=2**31 - 1, smooth=1)),
    ],
)
def test_the_ends_of_every_range_are_allowed(choice):
    assert Recipe({LAYER: choice}).layers[LAYER] == choice


@pytest.mark.parametrize(
    "settings",
    [
        Finetune(1, batches_per_epoch=1, patience=1, feature_weight=0),
        Finetune(10_000, batches_per_epoch=2**31 - 1, patience=10_000),
    ],
)
def test_the_ends_of_every_range_of_the_finetuning_are_allowed(settings):
    assert Recipe({LAYER: LayerRecipe()}, settings).finetune == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Finetune(0), "`1 <= epochs <= 10000` must hold, whole, but finetune has epochs=0"),
        (Finetune(1.5), "`1 <= epochs <= 10000` must hold, whole, but finetune has epochs=1.5"),
        (Finetune(10_001), "`1 <= epochs <= 10000` must hold, whole, but finetune has epochs=10001"),
        *(
            (
                Finetune(1, batches_per_epoch=count),
                f"`batches_per_epoch >= 1` must hold, whole, but finetune has batches_per_epoch={count}",
            )
            for count in (0, 2.5)
        ),
        (
            Finetune(1, quantization_aware="yes"),
            "`quantization_aware` must be true or false, but finetune has quantization_aware='yes'",
        ),
        (Finetune(1, patience=0), "`1 <= patience <= 10000` must hold, whole, but finetune has patience=0"),
        (
            Finetune(1, feature_weight=-1),
            "`0 <= feature_weight < inf` must hold, but finetune has feature_weight=-1",
        ),
        (Finetune(1, optimizer="adam"), "`optimizer` must be 'muon' or 'sgd', but finetune has optimizer='adam'"),
        (Finetune(1, 0.0), "`0 < learning_rate < inf` must hold, but finetune has learning_rate=0.0"),
        (Finetune(1, float("inf")), "`0 < learning_rate < inf` must hold, but finetune has learning_rate=inf"),
        (Finetune(1, 0.1, -1), "`0 < temperature < inf` must hold, but finetune has temperature=-1"),
        (Finetune(1, 0.1, "4"), "`0 < temperature < inf` must hold, but finetune has temperature='4'"),
    ],
)
def test_a_setting_of_the_finetuning_out_of_range_is_refused(settings, message):
    with pytest.raises(InputError) as caught:
        Recipe({LAYER: LayerRecipe()}, settings)
    assert str(caught.value) == message
