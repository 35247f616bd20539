"""Apply a recipe to a task's network: export it, score it on both splits, measure or price it beside the original."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gulliver.compressors.compress import Original, compress, read_original
from gulliver.evaluators.latency.target import Target
from gulliver.search.bench import make_bench
from gulliver.search.finalists import Exported, Measured
from gulliver.search.units import ms
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.protocol import Task

FORMATS = ("openvino", "onnx")

Say = Callable[[str], None]


def apply_recipe(
    recipe: Recipe,
    task: Task,
    target: Target,
    out: Path,
    say: Say,
    formats: Sequence[str] = FORMATS[:1],
) -> dict[str, Measured]:
    """Return the measurements of the recipe's network and of the originals; `out` gets the exported models.

    OpenVINO's are what is measured; a network that is wanted in another format too is made once more for it.
    What layers cannot take is said and left out; `out` gets the recipe that was applied, too.
    Raises InputError where the recipe is for another network or asks for what the target cannot run.
    """
    original = read_original(task)
    recipe, reasons = original.applicable(recipe)
    for name, reason in reasons.items():
        say(f"{name}: {reason}")
    kinds = {name: layer.kind for name, layer in original.graph.layers.items()}
    target.capabilities.check(recipe, kinds, target.name)
    bench = make_bench(original, target, out)
    exported = bench.baselines() | {"recipe": bench.export(f"recipe-{recipe.key}", recipe)}
    measured = bench.measure(exported)
    _write(out, measured)
    recipe.save(out / "recipe.yaml")
    _say_measured(measured, bench.labels | {"recipe": f"recipe {recipe.key[:8]}"}, target, say)
    _say_model(exported["recipe"], say)
    if "onnx" in formats:
        say(f"ONNX model           {_save_onnx(original, recipe, target.batch, out)}")
    return measured


def _say_measured(measured: dict[str, Measured], labels: dict[str, str], target: Target, say: Say) -> None:
    base = measured["baseline"]
    for name, label in labels.items():
        it = measured[name]
        say(
            f"{label:20} accuracy {it.accuracy_search:.4f} search {it.accuracy_test:.4f} test, "
            f"{ms(it.latency_ms):>7} ms {it.how} ({base.latency_ms / it.latency_ms:.2f}x, {target.conditions}), "
            f"{it.size_bytes / 1000:.0f} KB"
        )


def _say_model(exported: Exported, say: Say) -> None:
    say(f"exported model       {exported.path or exported.not_exported}")
    if exported.path:
        graph_bytes = Path(exported.path).stat().st_size
        say(f"sizes are those of weights; beside them, the graph takes {graph_bytes / 1000:.0f} KB of XML")


def _save_onnx(original: Original, recipe: Recipe, batch: int, out: Path) -> str:
    """Return the file that was written, or why there is none."""
    try:
        from gulliver.compressors.export_onnx import save_onnx, to_onnx

        network = to_onnx(compress(original, recipe), original.task.example_inputs, batch)
    except ImportError as error:
        return f"not written: {error.name} is missing, which comes with gulliver[onnx]"
    except Exception as error:  # torch's own errors have no other base class in common
        return ": ".join(["not written", type(error).__name__, *str(error).splitlines()[:1]])
    path = out / f"recipe-{recipe.key}" / "model.onnx"
    save_onnx(network, path)
    return str(path)


def _write(out: Path, measured: dict[str, Measured]) -> None:
    entries: dict[str, Any] = {name: it.entries for name, it in measured.items()}
    text = json.dumps(entries, indent=2) + "\n"
    write_atomically(out / "apply.json", lambda temporary: temporary.write_text(text))
