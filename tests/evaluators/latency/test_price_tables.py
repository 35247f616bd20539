"""Tables against whole lowerings: every recipe must cost what its kernel calls add up to."""

from random import Random

import numpy as np
import pytest
from gulliver.evaluators.factors import total
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import ComputeKernel
from gulliver.evaluators.latency.price_tables import call_table, call_tables, price
from gulliver.spaces.space import Space, SpaceOptions

TARGET = CpuOpenvino(batch=2)


class Tariff:
    """A picosecond for a multiply-accumulate, half of it in int8; a nanosecond for a byte; a millisecond to start."""

    def seconds(self, call):
        if isinstance(call.kernel, ComputeKernel):
            return call.kernel.macs * (0.5e-12 if call.kernel.precision == "int8" else 1e-12)
        return call.kernel.bytes_moved * 1e-9

    def total_ms(self, calls):
        return 1e3 * (1e-3 + sum(self.seconds(call) for call in calls))


@pytest.fixture(scope="module")
def space(block):
    return Space(block, TARGET.capabilities, SpaceOptions(max_ratio=0.5))


def dependencies(space, operation):
    table = call_table(space, TARGET, space.graph.by_name[operation])
    names = [dimension.name for dimension in space.dimensions]
    return {names[it] for factor in price(space, [table], Tariff()) for it in factor.variables}


def test_every_recipe_costs_what_its_lowering_adds_up_to(space):
    random = Random(0)
    draws = [{it.name: random.randrange(it.rungs) for it in space.dimensions} for _ in range(200)]
    expected = [Tariff().total_ms(TARGET.lower(space.graph, space.decode(rungs))) for rungs in draws]
    rungs = np.array([[draw[it.name] for it in space.dimensions] for draw in draws])
    factors = price(space, call_tables(space, TARGET), Tariff())
    np.testing.assert_allclose(total(factors, rungs), expected, rtol=1e-12)


def test_the_pooling_depends_on_its_channels_alone(space):
    assert dependencies(space, "pool") == {"sparsity/stem"}


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
