"""A small real space, and scores that cost nothing, for tests of the search itself."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.evaluators.factors import Factor
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.guide import Guide
from gulliver.search.journal import Scores
from gulliver.search.problem import Problem
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.spaces.trace import trace
from gulliver.tasks.moe_block import MoeBlock
from gulliver.tasks.residual_network import ResidualNetwork
from sqlalchemy import event
from sqlalchemy.engine import Engine


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """No test pulls the plug, so SQLite need not wait for the disk."""

    def relax(connection, record):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)


@pytest.fixture(scope="session")
def space():
    network = ResidualNetwork(widths=(16, 32), blocks_per_stage=1, stem_stride=1, in_channels=1, classes=10).eval()
    return Space(trace(network, (torch.zeros(1, 1, 8, 8),)), CpuOpenvino().capabilities)


@pytest.fixture(scope="session")
def block_original():
    """A block of experts, so small that exporting it takes no time."""
    torch.set_num_threads(1)
    return read_original(MoeBlock(width=16, hidden=16, samples=3))


@pytest.fixture(scope="session")
def price():
    """Every removed share and every quantized layer saves time and costs accuracy, by amounts of its own."""

    def scores(recipe: Recipe) -> Scores:
        saved, lost = 0.0, 0.0
        for index, choice in enumerate(recipe.layers.values()):
            removed = choice.sparsify.ratio if choice.sparsify else 0.0
            saved += removed + 0.5 * (choice.quantize is not None) + 0.2 * (choice.decompose is not None)
            lost += removed**2 * (1 + index % 3) + 0.01 * (choice.quantize is not None)
        return Scores(accuracy_search=1 - lost / 20, latency_ms=10 - saved, size_bytes=1000 - 10 * saved)

    return scores


@pytest.fixture(scope="session")
def guide(space):
    """Tables that know of the space's scores what `price` says of each choice alone, roughly."""
    sizes = tuple(it.rungs for it in space.dimensions)
    shares = [np.arange(size) / (size - 1) for size in sizes]
    loss = tuple(Factor((at,), 0.05 * share**2) for at, share in enumerate(shares))
    latency = tuple(Factor((at,), (10 - 5 * share) / len(sizes)) for at, share in enumerate(shares))
    names = tuple(it.name for it in space.dimensions)
    layers = list(space.graph.layers)
    positions = tuple(layers.index(it.owner) for it in space.dimensions)
    return Guide(Problem(names, sizes, loss, latency), positions, 1.0, 0.5, 10.0)


TIES = {
    "chain": [(0, 1), (1, 2), (3, 2), (3, 4), (4, 5)],
    "star": [(1, 0), (2, 0), (0, 3), (4, 0), (5, 0)],
    "grid": [(0, 1), (2, 1), (3, 4), (4, 5), (0, 3), (1, 4), (5, 2), (4, 0, 1)],
    "no ties": [],
}


@dataclass(frozen=True)
class SolvedProblem:
    """A problem of six variables, budgets in no order, and the least loss within each: infinite where there is none."""

    problem: Problem
    budgets_ms: list[float]
    least_losses: list[float]


@pytest.fixture(params=[(graph, seed) for graph in TIES for seed in range(4)], ids=lambda it: f"{it[0]} {it[1]}")
def solved(request):
    """Try every assignment; interactions have losses and latencies of both signs, totals of latency are positive."""
    graph, seed = request.param
    random = np.random.default_rng(seed)
    sizes = tuple(random.integers(1, 5, 6).tolist())
    single = [(at,) for at in range(6)]

    def tables(scopes, low, high):
        return tuple(Factor(scope, random.uniform(low, high, [sizes[at] for at in scope])) for scope in scopes)

    loss = tables(single, 0, 1) + tables(TIES[graph], -0.5, 0.5)
    latency = tables(single, 0.5, 2) + tables(TIES[graph], -0.1, 0.3)
    problem = Problem(tuple(f"variable{at}" for at in range(6)), sizes, loss, latency)
    rungs = np.array(list(itertools.product(*map(range, sizes))))
    losses, latencies = problem.loss_of(rungs), problem.latency_ms_of(rungs)
    fastest = float(latencies.min())
    budgets = [*np.quantile(latencies, [0.5, 0.1, 0.8]).tolist(), fastest * 0.99, fastest, float(latencies.max()) + 1]
    least = [float(losses[latencies <= budget].min(initial=np.inf)) for budget in budgets]
    return SolvedProblem(problem, budgets, least)
