import copy

import pytest
import torch
from gulliver.compressors.export import to_openvino
from gulliver.compressors.sparsify import rank_channels, removed_indices, sparsify
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.measurement import compile_openvino
from gulliver.spaces.recipe import LayerRecipe, Recipe, Sparsify
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from torch import nn

from benchmarks.amct.classic_goals import best_single, by_network, goals
from benchmarks.amct.classic_parts import RANKS, Effort, removed_share
from benchmarks.amct.classic_runs import effort_of
from benchmarks.amct.classic_tasks import NETWORKS, ClassicNetwork, blueprint


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Compute with one thread in all of these tests."""


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """Return the untrained network, its batch norms unlike those that do nothing, with images and its graph."""
    torch.manual_seed(0)
    model = NETWORKS[request.param][0]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    images = torch.randn(4, 1, 28, 28)
    return model, images, trace(model, (images[:1],))


def test_there_are_thirteen():
    assert len(NETWORKS) == 13


def test_each_has_ten_outputs_and_is_small(network):
    model, images, graph = network
    assert model(images).shape == (4, 10)
    assert 50_000 < sum(layer.weight_count for layer in graph.layers.values()) < 650_000
    assert 3e6 < sum(layer.macs for layer in graph.layers.values()) < 20e6


def test_the_exported_network_gives_what_the_network_gives(network):
    model, images, _ = network
    compiled = compile_openvino(to_openvino(model, (images[:1],), 4), "float32", threads=1)
    exported = torch.from_numpy(compiled([images.numpy()])[0])
    assert torch.allclose(exported, model(images), atol=1e-4)


def test_without_half_of_all_channels_it_gives_what_it_gives_when_nobody_reads_them(network):
    model, images, graph = network
    losing = {name for group in graph.channel_groups if not group.not_prunable for name in group.layers}
    recipe = Recipe({name: LayerRecipe(Sparsify(0.5) if name in losing else None) for name in graph.layers})
    ranking = rank_channels(model, (images[:1],))
    unread = copy.deepcopy(model)
    for (name, side), indices in removed_indices(graph, recipe, ranking).items():
        if side == "in":
            unread.get_submodule(name).weight.data[:, sorted(indices)] = 0
    thinned = sparsify(copy.deepcopy(model), graph, recipe, ranking)
    with torch.no_grad():
        assert torch.allclose(thinned(images), unread(images), atol=1e-4)


def test_it_can_be_searched_by_ranks_alone(network):
    _, _, graph = network
    target = CpuOpenvino()
    space = Space(graph, target.capabilities, SpaceOptions(bits=(), max_ratio=0.0, ranks=RANKS))
    assert {dimension.method for dimension in space.dimensions} == {"rank"}
    split = target.lower(graph, space.uniform(rank_rung=2))
    assert len(split) > len(target.lower(graph, space.uniform()))


def test_networks_are_kept_apart_by_what_they_compute(monkeypatch):
    assert len({ClassicNetwork(name).weights_path for name in NETWORKS}) == 13
    before = blueprint("nin").content
    monkeypatch.setitem(NETWORKS, "nin", NETWORKS["vgg"])
    blueprint.cache_clear()
    assert blueprint("nin").content != before
    blueprint.cache_clear()


@pytest.mark.parametrize(
    ("part", "named"),
    [("int8", ""), ("channels", "3x200"), ("sparsity", "3x200-24-6"), ("joint", "3x200-24-6-ranks-to-0.5")],
)
def test_a_run_is_named_by_all_of_the_effort_that_it_depends_on(part, named, monkeypatch):
    monkeypatch.setattr("benchmarks.amct.classic_runs.RANKS", (0.75, 0.5))
    assert effort_of(part, Effort(3, 200, 24, 6)) == named


def test_the_share_that_is_gone_is_of_the_channels_that_can_be_removed():
    graph = trace(
        nn.Sequential(nn.Conv2d(1, 24, 3), nn.Conv2d(24, 8, 3), nn.Conv2d(8, 5, 1)), (torch.zeros(1, 1, 9, 9),)
    )
    recipe = Recipe({"0": LayerRecipe(Sparsify(0.25)), "1": LayerRecipe(Sparsify(0.5)), "2": LayerRecipe()})
    assert removed_share(graph, recipe) == pytest.approx((6 + 4) / 32)


def line(part, latency_ms, search=0.9, drop=0.0, float_type="bfloat16", network="net", share=1.0):
    values = {
        "network": network,
        "part": part,
        "float_type": float_type,
        "accuracy_search": search,
        "accuracy_test": 0.9 - drop / 100,
        "drop_points": drop,
        "latency_ms": latency_ms,
        "speedup_over_bf16": 4.0 / latency_ms,
        "size_share": share,
    }
    return {name: str(value) for name, value in values.items()}


@pytest.fixture
def lines():
    return [
        line("original", 8.0, float_type="float32"),
        line("original", 4.0),
        line("int8", 2.0, search=0.895, drop=0.2),
        line("int8", 2.5, float_type="float32"),
        line("nncf_int8", 3.0, drop=0.3),
        line("nncf_int8", 2.2, float_type="float32"),
        line("channels", 1.0, search=0.8949),
        line("sparsity", 3.0),
        line("decomposition", 2.5, drop=0.6, share=0.5),
        line("joint", 0.8),
    ]


def test_the_best_single_method_is_the_fastest_that_loses_half_a_point_at_most_on_the_search_split(lines):
    assert best_single(by_network(lines)["net"])["part"] == "int8"
    without = [it for it in lines if it["part"] not in ("int8", "sparsity", "decomposition")]
    assert best_single(by_network(without)["net"])["part"] == "original"


def test_goals_are_those_by_hand(lines):
    other = [line("original", 8.0, network="b", float_type="float32"), line("original", 4.0, network="b")]
    found = {goal.claim: goal for goal in goals([*lines, *other, line("decomposition", 2.0, network="b", share=0.3)])}
    saved = found["decomposition: mean share of the measured time that is saved, over bf16"]
    assert (saved.networks, saved.value, saved.met) == (2, pytest.approx((0.375 + 0.5) / 2), True)
    assert saved.worst == "net 0.3750"
    drops = found["decomposition: networks that lose at most so many points on the test split"]
    assert (drops.networks, drops.value, drops.met, drops.worst) == (2, 1, False, "net loses 0.60")
    assert found["int8: geometric mean of NNCF's time over ours, each with the faster float type"].value == 1.1
    joint = found["joint: geometric mean of the best single method's time over the joint search's"]
    assert (joint.networks, joint.value, joint.met) == (1, pytest.approx(2.5), True)
    assert not any(claim.startswith("int4_qat") for claim in found)
