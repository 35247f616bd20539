import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from gulliver.compressors.compress import compress, first_samples, read_original
from gulliver.evaluators.divergence import kl_divergence, mean_divergence, squared_error
from gulliver.evaluators.factors import total
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.taylor import TaylorLoss
from gulliver.search import sensitivity as module
from gulliver.search.pairs import pairs_that_matter
from gulliver.search.sensitivity import Sensitivities, SensitivitySettings, measure_sensitivities
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from gulliver.tasks.residual_network import ResidualNetwork


@dataclass
class Task:
    seed: int = 0
    name: str = "small"

    def __post_init__(self):
        torch.manual_seed(self.seed)
        self.model = ResidualNetwork(
            widths=(16, 32), blocks_per_stage=1, stem_stride=1, in_channels=1, classes=10
        ).eval()
        self.example_inputs = (torch.zeros(1, 1, 8, 8),)

    def calibration(self):
        images = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        return [(it,) for it in images.split(16)]


class Killed(BaseException):
    """Stands for a kill: nothing that catches errors catches it."""


@pytest.fixture(scope="module")
def original():
    return read_original(Task())


@pytest.fixture(scope="module")
def space(original):
    return Space(original.graph, CpuOpenvino().capabilities, SpaceOptions(reconstruct=False))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "gulliver" / "sensitivities"


class Stub:
    """A method that gives losses by recipe, and keeps what it was asked for."""

    def __init__(self, loss):
        self.loss, self.asked = loss, []

    def __call__(self, original, settings):
        def loss(recipe):
            self.asked.append(recipe.key)
            return self.loss(recipe)

        return lambda recipes: map(loss, recipes)


def cost(recipe):
    """Return 0.1 for each layer of 8 bits, 0.2 for each one split, 0.4 for each ratio, and half of all that on top."""
    parts = [
        0.1 * bool(it.quantize) + 0.2 * bool(it.decompose) + 0.4 * (it.sparsify.ratio if it.sparsify else 0.0)
        for it in recipe.layers.values()
    ]
    return sum(parts) + (0.05 if sum(part > 0 for part in parts) > 1 else 0.0)


@pytest.fixture
def stub(monkeypatch):
    def use(loss=cost):
        stubbed = Stub(loss)
        monkeypatch.setitem(module.METHODS, "stub", stubbed)
        return stubbed

    return use


def measure(original, space, method="stub", **settings):
    return measure_sensitivities(original, space, SensitivitySettings(**settings), method)


def choices_of(space):
    return [(it.name, rung) for it in space.dimensions for rung in range(1, it.rungs)]


def test_every_choice_is_measured_alone(original, space, stub):
    stub()
    found = measure(original, space)
    assert found.method == "stub"
    assert found.losses == {it: cost(space.decode(dict([it]))) for it in choices_of(space)}


def test_what_was_measured_is_not_measured_again(original, space, stub):
    first = stub()
    measured = measure(original, space)
    assert len(first.asked) == len(set(first.asked))
    again = stub()
    assert measure(original, space) == measured
    assert again.asked == []


def test_a_method_is_not_even_started_where_all_is_known(original, space, stub, monkeypatch):
    stub()
    measured = measure(original, space)
    monkeypatch.setitem(module.METHODS, "stub", None)
    assert measure(original, space) == measured


@pytest.mark.parametrize(
    "change",
    [
        {"original": lambda it: replace(it, network="0123456789abcdef")},
        {"original": lambda it: replace(it, calibration=((it.calibration[0][0] + 1.0,), it.calibration[1]))},
        {"divergence": "squared_error"},
        {"samples": 7},
    ],
    ids=["weights", "calibration", "divergence", "samples"],
)
def test_whatever_a_loss_depends_on_measures_anew(original, space, stub, change):
    first = stub()
    measure(original, space)
    again = stub()
    changed = change.get("original", lambda it: it)(original)
    measure(changed, space, **{key: value for key, value in change.items() if key != "original"})
    assert again.asked == first.asked


def test_another_method_and_changed_code_measure_anew(original, space, stub, monkeypatch, tmp_path):
    first = stub()
    measure(original, space)
    monkeypatch.setitem(module.METHODS, "other", again := Stub(cost))
    measure(original, space, "other")
    assert again.asked == first.asked
    changed = tmp_path / "divergence.py"
    changed.write_text("# another definition")
    monkeypatch.setattr(module, "_LOSS_FILES", (changed,))
    anew = stub()
    measure(original, space)
    assert anew.asked == first.asked


def test_weights_are_part_of_a_networks_name(original):
    assert read_original(Task(seed=1)).network != original.network == read_original(Task()).network


def test_a_measurement_that_is_killed_goes_on_where_it_was(original, space, stub):
    def dying(recipe):
        if len(first.asked) > 15:
            raise Killed
        return cost(recipe)

    first = stub(dying)
    with pytest.raises(Killed):
        measure(original, space)
    second = stub()
    resumed = measure(original, space)
    assert second.asked[0] == first.asked[15]
    assert set(first.asked[:15]).isdisjoint(second.asked)
    assert resumed.losses == {it: cost(space.decode(dict([it]))) for it in choices_of(space)}


def test_what_was_measured_is_on_the_disk_before_the_end(original, space, stub, cache):
    seen = []

    def looking(recipe):
        seen.append(sum(len(json.loads(it.read_text())) for it in cache.glob("*.json")))
        return cost(recipe)

    stub(looking)
    measure(original, space)
    assert seen[:22] == [0] * 20 + [20] * 2


def test_the_share_of_a_pair_is_what_both_cost_beyond_their_sum(original, space, stub):
    stub()
    found = measure(original, space, pairs=1000)
    pair = ("precision/stages.0.0.conv1", "precision/stages.0.0.conv2")
    # 0.1 + 0.1 + 0.05 together, so 0.05 beyond the sum, over sqrt(0.1 * 0.1).
    assert found.pairs[pair] == pytest.approx(0.5)
    same_layer = ("precision/stages.0.0.conv1", "rank/stages.0.0.conv1")
    assert found.pairs[same_layer] == pytest.approx(0.0, abs=1e-12)
    assert set(found.pairs) == set(pairs_that_matter(space))


def test_the_predicted_loss_of_a_pair_is_what_was_measured_of_it(original, space, stub):
    stub()
    factors = measure(original, space, pairs=1).factors(space)
    (pair,) = measure(original, space, pairs=1).pairs
    names = [it.name for it in space.dimensions]
    ends = {it.name: it.rungs - 1 for it in space.dimensions}
    rungs = np.array([[ends[name] if name in pair else 0 for name in names]])
    assert total(factors, rungs)[0] == pytest.approx(cost(space.decode({name: ends[name] for name in pair})))
    assert total(factors, np.zeros_like(rungs))[0] == 0.0
    assert len(factors) == len(names) + 1


def test_the_pairs_that_lose_most_are_measured_first(original, space, stub):
    stub()
    found = measure(original, space, pairs=5)
    ends = {it.name: it.rungs - 1 for it in space.dimensions}
    products = {
        pair: found.losses[pair[0], ends[pair[0]]] * found.losses[pair[1], ends[pair[1]]]
        for pair in pairs_that_matter(space)
    }
    assert len(found.pairs) == 5
    assert min(products[it] for it in found.pairs) >= max(
        value for pair, value in products.items() if pair not in found.pairs
    )
    stub()
    assert measure(original, space, pairs=0).pairs == {}


@pytest.mark.parametrize(("together", "share"), [(9.0, 1.0), (0.0, -1.0)])
def test_a_share_beyond_what_is_plausible_is_cut_off(original, space, stub, together, share):
    def loss(recipe):
        return together if sum(bool(it.quantize) for it in recipe.layers.values()) > 1 else 0.1

    stub(loss)
    pairs = measure(original, space, pairs=1000).pairs
    assert pairs["precision/stages.0.0.conv1", "precision/stages.0.0.conv2"] == share


def test_choices_that_cost_nothing_have_no_share_and_rounding_below_nothing_is_nothing(original, space, stub):
    stub(lambda recipe: -1e-9)
    found = measure(original, space)
    assert set(found.losses.values()) == {0.0}
    assert set(found.pairs.values()) == {0.0}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_choice_that_gives_no_numbers_is_worse_than_all_others(original, space, stub, number):
    broken = ("precision/classifier", 1)

    def loss(recipe):
        return number if recipe.layers["classifier"].quantize else cost(recipe)

    stub(loss)
    found = measure(original, space, pairs=1000)
    assert found.losses[broken] == 10 * max(value for it, value in found.losses.items() if it != broken)
    assert all(np.isfinite(it.table).all() for it in found.factors(space))


@pytest.mark.parametrize(("divergence", "function"), [("kl", kl_divergence), ("squared_error", squared_error)])
def test_a_direct_loss_is_the_divergence_of_the_compressed_network(original, space, divergence, function):
    settings = SensitivitySettings(divergence=divergence, samples=20)
    recipes = [space.decode(dict([it])) for it in choices_of(space)[::4]]
    inputs, outputs = first_samples(original, 20)
    wanted = [mean_divergence(compress(original, it, inputs), inputs, outputs, function) for it in recipes]
    losses = module.METHODS["direct"](original, settings)
    assert [*losses(recipes)] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("classes", "function"),
    [(None, squared_error), (0, lambda reference, outputs: kl_divergence(reference.T, outputs.T))],
)
def test_outputs_are_compared_as_what_the_task_says_that_they_are(original, space, classes, function):
    class Saying(Task):
        class_dimension = classes

    saying = replace(original, task=Saying())
    inputs, outputs = first_samples(original, 8)
    found = measure_sensitivities(saying, space, SensitivitySettings(samples=8, pairs=0), "direct")
    choice, loss = next(iter(found.losses.items()))
    network = compress(original, space.decode(dict([choice])), calibration=inputs)
    assert loss == pytest.approx(mean_divergence(network, inputs, outputs, function), rel=1e-4)


def test_removed_channels_cost_what_reconstruction_leaves_of_it_as_in_every_trial(original, space):
    repaired = replace(space, options=replace(space.options, reconstruct=True))
    found = measure(original, repaired, "direct", pairs=0, samples=20).losses
    unrepaired = measure(original, space, "direct", pairs=0, samples=20).losses
    choice = ("sparsity/stem.conv", 1)
    inputs, outputs = first_samples(original, 20)
    network = compress(original, repaired.decode(dict([choice])), inputs)
    assert found[choice] == pytest.approx(mean_divergence(network, inputs, outputs, kl_divergence), rel=1e-4)
    assert found[choice] < unrepaired[choice]


def test_the_gradient_knows_nothing_of_reconstruction(original, space):
    repaired = replace(space, options=replace(space.options, reconstruct=True))
    assert measure(original, repaired, "gradient", samples=20) == measure(original, space, "gradient", samples=20)


def test_losses_by_the_gradient_are_those_of_the_taylor_expansion(original, space):
    found = measure(original, space, "gradient", pairs=0, samples=20)
    recipes = [space.decode(dict([it])) for it in choices_of(space)]
    assert list(found.losses.values()) == [*map(TaylorLoss(original, 20), recipes)]


def test_a_factor_is_over_the_dimensions_of_the_space_in_their_order(space):
    names = [it.name for it in space.dimensions]
    pair = ("rank/stages.0.0.conv1", "sparsity/stages.1.0.conv1")
    losses = {(name, rung): float(rung) for name, rung in choices_of(space)}
    *alone, together = Sensitivities("stub", losses, {pair: 0.5}).factors(space)
    assert [it.table.tolist() for it in alone] == [list(map(float, range(it.rungs))) for it in space.dimensions]
    assert [it.variables for it in alone] == [(index,) for index in range(len(names))]
    assert together.variables == (names.index(pair[0]), names.index(pair[1]))
    assert together.table[2, 3] == pytest.approx(0.5 * 6**0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "guess"}, "`sensitivity.method` must be one of direct, gradient, but is guess"),
        ({"divergence": "l1"}, "`sensitivity.divergence` must be one of kl, squared_error, but is l1"),
        ({"samples": 0}, "`sensitivity.samples >= 1` .* must hold, but they are 0 and 24"),
        ({"pairs": -1}, "`sensitivity.pairs >= 0` must hold, but they are 256 and -1"),
        (
            {"method": "gradient", "divergence": "squared_error"},
            "`sensitivity.divergence` must be kl for sensitivity.method=gradient, but is squared_error",
        ),
    ],
)
def test_an_impossible_setting_is_refused_with_its_rule_and_value(settings, message):
    with pytest.raises(InputError, match=message):
        SensitivitySettings(**settings)
