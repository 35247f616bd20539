"""Tables against whole lowerings: every recipe must cost what its kernel calls add up to."""

from itertools import product
from random import Random

import numpy as np
import pytest
from gulliver.evaluators.factors import total
from gulliver.evaluators.latency import price_tables
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel, GatedMlpKernel
from gulliver.evaluators.latency.price_tables import call_table, call_tables, price
from gulliver.spaces.recipe import DECOMPOSITIONS
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from gulliver.tasks.moe_block import MoeBlock

TARGET = CpuOpenvino(batch=2)
CHIP = ChipTarget("ascend_910b2", batch=2)
EVERY_KIND = SpaceOptions(max_ratio=0.5, calibrators=("mse", "min_max"), decompositions=DECOMPOSITIONS)
WIDTHS = ((8, 8), (4, 8), (8, 16))


class Tariff:
    """A picosecond for a multiply-accumulate, half of it in int8; a nanosecond for a byte; a millisecond to start."""

    def seconds(self, call):
        if isinstance(call.kernel, ComputeKernel):
            return call.kernel.macs * (0.5e-12 if call.kernel.precision == "int8" else 1e-12)
        return call.kernel.bytes_moved * 1e-9

    def total_ms(self, calls):
        return 1e3 * (1e-3 + sum(self.seconds(call) for call in calls))

    def require(self, kernels):
        self.required = len(set(kernels))


@pytest.fixture(scope="module", params=[SpaceOptions(max_ratio=0.5), EVERY_KIND], ids=["default", "every kind"])
def space(request, block):
    return Space(block, TARGET.capabilities, request.param)


@pytest.fixture(scope="module")
def experts():
    task = MoeBlock(width=64, hidden=32, samples=1)
    graph = trace(task.model, task.example_inputs)
    return Space(graph, CHIP.capabilities, SpaceOptions(bits=WIDTHS, max_ratio=0.5))


def draws_of(space, count):
    random = Random(0)
    return [{it.name: random.randrange(it.rungs) for it in space.dimensions} for _ in range(count)]


def dependencies(space, operation):
    table = call_table(space, TARGET, space.graph.by_name[operation])
    names = [dimension.name for dimension in space.dimensions]
    return {names[it] for factor in price(space, [table], Tariff()) for it in factor.variables}


def test_every_recipe_costs_what_its_lowering_adds_up_to(space):
    draws = draws_of(space, 200)
    expected = [Tariff().total_ms(TARGET.lower(space.graph, space.decode(rungs))) for rungs in draws]
    rungs = np.array([[draw[it.name] for it in space.dimensions] for draw in draws])
    factors = price(space, call_tables(space, TARGET), Tariff())
    np.testing.assert_allclose(total(factors, rungs), expected, rtol=1e-12)


def test_recipes_of_gated_mlps_cost_what_their_lowerings_add_up_to_on_a_chip(experts):
    random, fused = Random(1), 0
    draws = draws_of(experts, 60)
    for draw in draws[:30]:  # whole experts in int8, or few would fuse
        for expert in random.sample(range(8), 4):
            for layer in ("gate", "up", "down"):
                name = f"experts.{expert}.{layer}"
                draw |= {f"precision/{name}": 1, f"rank/{name}": 0, f"pattern/{name}": 0}
    model, expected = CHIP.latency, []
    for draw in draws:
        calls = CHIP.lower(experts.graph, experts.decode(draw))
        fused += sum(isinstance(call.kernel, GatedMlpKernel) for call in calls)
        expected.append(1e3 * sum(model.seconds(call) for call in calls))
    rungs = np.array([[draw[it.name] for it in experts.dimensions] for draw in draws])
    factors = price(experts, call_tables(experts, CHIP), CHIP.latency)
    np.testing.assert_allclose(total(factors, rungs), expected, rtol=1e-12)
    assert fused >= 30 * 4


def test_a_gated_mlp_is_priced_by_the_choices_of_its_own_layers_and_of_nothing_else(experts):
    table = call_table(experts, CHIP, experts.graph.by_name["experts_3_gate"])
    asked = {name for answers in table for name, _ in answers}
    kinds, layers = ("precision", "rank", "pattern"), ("gate", "up", "down")
    mine = {f"{kind}/experts.3.{layer}" for kind, layer in product(kinds, layers)}
    assert asked == mine
    fused = [answers for answers, calls in table.items() if isinstance(calls[0].kernel, GatedMlpKernel)]
    assert [dict(answers) for answers in fused] == [{name: int(name.startswith("precision")) for name in mine}]


def test_all_kernels_are_priced_at_once(space):
    tariff = Tariff()
    tables = call_tables(space, TARGET)
    price(space, tables, tariff)
    assert tariff.required == len({call.kernel for it in tables for calls in it.values() for call in calls})


def test_the_pooling_depends_on_its_channels_and_on_who_reads_it(space):
    assert dependencies(space, "pool") == {"sparsity/stem", "precision/linear"}


def test_a_convolution_depends_on_its_own_choices_its_channels_and_who_reads_it(space):
    assert dependencies(space, "conv1") == {
        "precision/conv1",
        "rank/conv1",
        "sparsity/stem",
        "sparsity/conv1",
        "precision/conv2",
    }


def test_what_fuses_away_asks_for_nothing_and_costs_nothing(space):
    batch_norm = next(it.name for it in space.graph.operations if it.kind == "batch_norm")
    assert call_table(space, TARGET, space.graph.by_name[batch_norm]) == {(): ()}


def test_operations_that_depend_on_the_same_choices_share_a_factor(space):
    factors = price(space, call_tables(space, TARGET), Tariff())
    variables = [factor.variables for factor in factors]
    assert len(set(variables)) == len(variables)
    assert all(factor.table.any() for factor in factors)


def test_an_operation_that_depends_on_too_many_choices_is_named_and_so_are_they(space, monkeypatch):
    monkeypatch.setattr(price_tables, "MOST_ANSWERS", 4)
    with pytest.raises(
        InputError, match=r"at most 4 combinations .*that of stem depends on .*precision/stem.*space.max_ratio=0"
    ):
        call_tables(space, TARGET)
