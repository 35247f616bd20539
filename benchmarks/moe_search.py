"""Does a search find that half a gated MLP in fallback is not worth it? python -m benchmarks.moe_search [OUT].

Searches the task moe_block for ascend_910b2 with the settings of conf/, and counts in every recipe that was tried how
many of its 8 gated MLPs are fused, how many are all in floating point, and how many are partially in fallback: one or
two of their three layers in floating point, the rest quantized. Beside that every expert is priced with nothing else
changed: all in int8, all in floating point, and the cheapest of the six partial fallbacks between them, whatever the
search tried. Latencies are modelled, accuracies simulated. Writes benchmarks/results/moe_search.csv, a row for each
trial, and moe_search_experts.csv, a row for each expert; the front's plans are in OUT (outputs/moe_search).
"""

import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas
from gulliver.evaluators.latency.gated_mlp import GatedMlpLayers, find_gated_mlps
from gulliver.evaluators.latency.target import Target
from gulliver.search.commands import say
from gulliver.search.jobs import SearchJob
from gulliver.search.launch import check
from gulliver.search.run_search import run_search
from gulliver.search.show_plan import show_plan
from gulliver.spaces.layer_graph import LayerGraph
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.spaces.space import untouched
from gulliver.spaces.trace import trace

from benchmarks.record import write_table

COMMAND = ["task=moe_block", "target=ascend_910b2", "tracking=none"]
INT8 = Quantize(8, 8)
Choices = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Trial:
    """One recipe that was tried, and what it does with the gated MLPs; `other` are quantized, but not fused."""

    trial: int
    on_front: bool
    proposed_by: str
    modelled_latency_ms: float
    accuracy_search: float
    fused: int
    all_in_float: int
    partially_in_fallback: int
    other: int


@dataclass(frozen=True)
class Expert:
    """The modelled milliseconds of the block where all but this expert are as they were."""

    expert: str
    rows: int
    all_int8_ms: float
    all_float_ms: float
    cheapest_partial_ms: float
    cheapest_partial: str


def kind(choices: Choices, mlp: GatedMlpLayers) -> str:
    """Return which count of `Trial` the gated MLP is in."""
    mine = [choices[layer] for layer in mlp.layers]
    quantized = [it["quantize"] for it in mine if it["quantize"] is not None]
    if 0 < len(quantized) < len(mine):
        return "partially_in_fallback"
    if not quantized:
        return "all_in_float"
    whole = all(it["decompose"] is None for it in mine)
    return "fused" if whole and all(Quantize(**it) == INT8 for it in quantized) else "other"


def trials(out: Path, graph: LayerGraph) -> Iterator[Trial]:
    """Yield the recipes that the search in the folder tried."""
    mlps = find_gated_mlps(graph)
    front = set(pandas.read_csv(out / "front.csv")["trial"])
    for row in pandas.read_parquet(out / "trials.parquet").to_dict("records"):
        choices: Choices = json.loads(row["recipe"])
        kinds = [kind(choices, mlp) for mlp in mlps]
        names = ("fused", "all_in_float", "partially_in_fallback", "other")
        costs = (round(row["latency_ms"], 4), round(row["accuracy_search"], 4))
        yield Trial(row["trial"], row["trial"] in front, row["proposed_by"], *costs, *map(kinds.count, names))


def experts(graph: LayerGraph, target: Target, latency_ms: Any) -> Iterator[Expert]:
    """Yield every expert's prices; `latency_ms` prices a recipe."""
    before = untouched(graph)
    for mlp in find_gated_mlps(graph):
        prices = {}
        for chosen in itertools.product((INT8, None), repeat=3):
            layers = {name: LayerRecipe(quantize=it) for name, it in zip(mlp.layers, chosen, strict=True)}
            prices[chosen] = latency_ms(Recipe(dict(before.layers) | layers))
        all_int8, all_float = prices.pop((INT8,) * 3), prices.pop((None,) * 3)
        cheapest = min(prices, key=lambda it: prices[it])
        names = [layer for layer, it in zip(mlp.layers, cheapest, strict=True) if it is None]
        costs = (round(it, 5) for it in (all_int8, all_float, prices[cheapest]))
        yield Expert(
            mlp.layers[0].rpartition(".")[0], rows_of(graph, mlp, target), *costs, " ".join(names) + " in float"
        )


def rows_of(graph: LayerGraph, mlp: GatedMlpLayers, target: Target) -> int:
    """Return the rows that reach the expert in one batch."""
    return target.batch * graph.layers[mlp.layers[0]].output_shape[1]


def main() -> None:
    """Search, count, price, and write both tables."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/moe_search")
    job = check("search", [*COMMAND, f"out={out}"])
    assert isinstance(job, SearchJob)
    task, target = job.task, job.target
    result = run_search(task, target, job.settings, job.tracking, out, say)
    graph = trace(task.model, task.example_inputs)
    versions = {name: version(name) for name in ("torch", "optuna")}
    write_table("moe_search", list(trials(out, graph)), versions)
    priced = experts(graph, target, lambda it: target.latency.total_ms(target.lower(graph, it)))
    write_table("moe_search_experts", list(priced), versions)
    for index, candidate in enumerate(result.front):
        (out / f"plan-{index:02d}.txt").write_text(show_plan(candidate.recipe, task, target) + "\n")


if __name__ == "__main__":
    main()
