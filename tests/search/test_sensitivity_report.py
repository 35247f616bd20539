import csv
import math
from dataclasses import dataclass

import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.journal import Scores
from gulliver.search.sensitivity import METHODS, Sensitivities, SensitivitySettings
from gulliver.search.sensitivity_report import (
    FILES,
    draw_sensitivities,
    predicted_losses,
    rank_correlation,
    rank_correlations,
    write_sensitivities,
)
from gulliver.search.study import Candidate
from gulliver.spaces.recipe import DECOMPOSITIONS
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from gulliver.tasks.residual_network import ResidualNetwork


@pytest.fixture(scope="module")
def sensitivities(space):
    losses = {
        (it.name, rung): 0.01 * index + 0.1 * rung
        for index, it in enumerate(space.dimensions)
        for rung in range(1, it.rungs)
    }
    return Sensitivities("direct", losses, {("precision/stem.conv", "sparsity/stem.conv"): 0.5})


def candidates(space, accuracies, rungs):
    """Return candidates that differ in the rung of the group of four rungs."""
    return [
        Candidate(index, space.decode({"sparsity/stages.1.0.conv1": rung}), Scores(accuracy, 1.0, 1.0), 0.0, "test")
        for index, (accuracy, rung) in enumerate(zip(accuracies, rungs, strict=True))
    ]


def test_the_table_has_a_row_for_every_choice(tmp_path, space, sensitivities):
    write_sensitivities(tmp_path, sensitivities, space)
    assert sorted(it.name for it in tmp_path.iterdir()) == sorted(FILES)
    with (tmp_path / "sensitivities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["dimension", "rung", "loss", "method"]
    assert {(it["dimension"], int(it["rung"])): float(it["loss"]) for it in rows} == pytest.approx(
        dict(sensitivities.losses)
    )
    assert len(rows) == sum(it.rungs - 1 for it in space.dimensions)
    assert {it["method"] for it in rows} == {"direct"}


@pytest.mark.parametrize("loss", [0.0, 1.0])
def test_losses_that_are_all_the_same_are_drawn_too(tmp_path, space, sensitivities, loss):
    same = Sensitivities("direct", dict.fromkeys(sensitivities.losses, loss), {})
    draw_sensitivities(tmp_path / "same.png", same, space)
    assert (tmp_path / "same.png").read_bytes().startswith(b"\x89PNG")


def test_losses_of_recipes_are_predicted_with_their_pairs(space, sensitivities):
    recipe = space.decode({"precision/stem.conv": 1, "sparsity/stem.conv": 1})
    names = [it.name for it in space.dimensions]
    first, second = (0.01 * names.index(it) + 0.1 for it in ("precision/stem.conv", "sparsity/stem.conv"))
    found = predicted_losses(sensitivities, space, [Candidate(0, recipe, Scores(0.9, 1.0, 1.0), 0.0, "test")])
    assert found.tolist() == pytest.approx([first + second + 0.5 * (first * second) ** 0.5])
    assert predicted_losses(sensitivities, space, []).tolist() == []


def test_a_loss_that_ranks_as_the_accuracies_fall_correlates_by_one(space, sensitivities):
    assert rank_correlation(sensitivities, space, candidates(space, [0.9, 0.8, 0.7, 0.1], [0, 1, 2, 3])) == 1.0
    assert rank_correlation(sensitivities, space, candidates(space, [0.1, 0.7, 0.8, 0.9], [0, 1, 2, 3])) == -1.0
    # Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 (1 + 1) / (4 (16 - 1)).
    swapped = candidates(space, [0.9, 0.8, 0.1, 0.7], [0, 1, 2, 3])
    assert rank_correlation(sensitivities, space, swapped) == pytest.approx(1 - 12 / 60)


@dataclass
class Untrained:
    """The network of the space, and what it takes to measure it."""

    name: str = "untrained"
    example_inputs: tuple = (torch.zeros(1, 1, 8, 8),)

    def __post_init__(self):
        torch.manual_seed(0)
        network = ResidualNetwork(widths=(16, 32), blocks_per_stage=1, stem_stride=1, in_channels=1, classes=10)
        self.model = network.eval()

    def calibration(self):
        return [(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)),)]


@pytest.fixture
def original(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return read_original(Untrained())


def test_the_gradient_judges_calibrators_and_kinds_of_split_beside_the_method_that_was_searched_with(original):
    options = SpaceOptions(ranks=(0.5,), calibrators=("min_max", "mse"), decompositions=DECOMPOSITIONS)
    space = Space(original.graph, CpuOpenvino().capabilities, options)
    searched = Sensitivities(
        "direct", {(it.name, at): 1.0 * at for it in space.dimensions for at in range(it.rungs)}, {}
    )
    tried = candidates(space, [0.9, 0.8, 0.7], [0, 1, 2])
    found, refused = rank_correlations(original, space, SensitivitySettings(pairs=2), searched, tried)
    assert found == {"direct": 1.0, "gradient": 1.0}
    assert refused == {}


def test_a_method_that_cannot_judge_a_choice_of_the_space_is_left_out_and_says_why(
    original, space, sensitivities, monkeypatch
):
    def refuse(original, settings):
        raise InputError("the loss of this choice cannot be estimated")

    monkeypatch.setitem(METHODS, "gradient", refuse)
    tried = candidates(space, [0.9, 0.8, 0.7], [0, 1, 2])
    found, refused = rank_correlations(original, space, SensitivitySettings(), sensitivities, tried)
    assert found == {"direct": 1.0}
    assert refused == {"gradient": "the loss of this choice cannot be estimated"}


def test_a_trial_that_failed_is_left_out(space, sensitivities):
    tried = candidates(space, [0.9, math.nan, 0.7, 0.1], [0, 1, 2, 3])
    assert rank_correlation(sensitivities, space, tried) == 1.0


@pytest.mark.parametrize(
    ("accuracies", "rungs"),
    [([], []), ([0.9, 0.8], [0, 1]), ([0.9] * 3, [0, 1, 2]), ([0.9, 0.8, 0.7], [1, 1, 1]), ([math.nan] * 4, [0] * 4)],
)
def test_nothing_is_said_of_too_few_trials_and_of_equal_ones(space, sensitivities, accuracies, rungs):
    assert rank_correlation(sensitivities, space, candidates(space, accuracies, rungs)) is None
