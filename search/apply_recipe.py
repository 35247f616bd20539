"""Apply a recipe to a task's network: export it, score it on both splits, measure it beside the original."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.finalists import Bench, Measured
from gulliver.spaces.network_identity import check_recipe
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.protocol import Task


def apply_recipe(
    recipe: Recipe, task: Task, target: CpuOpenvino, out: Path, say: Callable[[str], None]
) -> dict[str, Measured]:
    """Return the measurements of the recipe's network and of the originals; `out` gets the exported models.

    Raises InputError where the recipe does not fit the network or asks for what the target cannot run.
    """
    original = read_original(task)
    check_recipe(recipe, original.graph, original.network)
    kinds = {name: layer.kind for name, layer in original.graph.layers.items()}
    target.capabilities.check(recipe, kinds, target.name)
    bench = Bench(original, target, out)
    exported = bench.baselines() | {"recipe": bench.export(f"recipe-{recipe.key}", recipe, target.float_type)}
    measured = bench.measure(exported)
    _write(out, measured)
    base = measured["baseline"]
    for name, label in (
        ("baseline", "OpenVINO fp32"),
        ("bf16", "OpenVINO bf16"),
        ("recipe", f"recipe {recipe.key[:8]}"),
    ):
        it = measured[name]
        say(
            f"{label:18} accuracy {it.accuracy_search:.4f} search {it.accuracy_test:.4f} test, "
            f"{it.latency_ms:7.2f} ms ({base.latency_ms / it.latency_ms:.2f}x, {target.conditions}), "
            f"{it.size_bytes / 1000:.0f} KB"
        )
    say(f"exported model     {exported['recipe'].path}")
    return measured


def _write(out: Path, measured: dict[str, Measured]) -> None:
    entries: dict[str, Any] = {name: asdict(it) for name, it in measured.items()}
    text = json.dumps(entries, indent=2) + "\n"
    write_atomically(out / "apply.json", lambda temporary: temporary.write_text(text))
