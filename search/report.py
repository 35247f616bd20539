"""What a search leaves behind: tables, a picture, recipes and a summary in the run directory."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from gulliver.search.finalists import MEASURED, Measured
from gulliver.search.result import Result
from gulliver.search.study import Candidate
from gulliver.search.units import ms
from gulliver.tasks.cache import write_atomically

_ORIGINALS = (("D", "black"), ("s", "tab:green"))
ARTIFACTS = ["recipes", "front.csv", "front.png", "summary.json", "trials.parquet"]


def write_tables(out: Path, candidates: Sequence[Candidate], front: Sequence[Candidate]) -> None:
    """Write trials.parquet and front.csv."""
    import pandas

    trials = pandas.DataFrame([_row(candidate) for candidate in candidates])
    write_atomically(out / "trials.parquet", lambda temporary: trials.to_parquet(temporary, index=False))
    members = pandas.DataFrame([_row(candidate) for candidate in front])
    write_atomically(out / "front.csv", lambda temporary: members.to_csv(temporary, index=False))


def write_recipes(out: Path, result: Result) -> None:
    """Write recipes/front-NN.yaml, fastest first, recipes/best.yaml, and recipes/within-D.yaml for the other drops."""
    # A search that has grown may have a shorter front, and fewer finalists within a drop.
    for older in [*(out / "recipes").glob("front-*.yaml"), *(out / "recipes").glob("within-*.yaml")]:
        older.unlink()
    for index, candidate in enumerate(result.front):
        candidate.recipe.save(out / "recipes" / f"front-{index:02d}.yaml")
    result.best.recipe.save(out / "recipes" / "best.yaml")
    for drop, finalist in result.fastest_within.items():
        finalist.recipe.save(out / "recipes" / f"within-{drop:g}.yaml")


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write summary.json."""
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(out / "summary.json", lambda temporary: temporary.write_text(text))


def draw_front(out: Path, candidates: Sequence[Candidate], result: Result, conditions: str) -> None:
    """Write front.png: every trial and the front as simulated, finalists and originals as measured or modelled."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    valid = [it.scores for it in candidates if it.scores.valid]
    axes.scatter([it.latency_ms for it in valid], [it.accuracy_search for it in valid], s=14, c="0.75", label="trials")
    members = [it.scores for it in result.front]
    axes.step(
        [it.latency_ms for it in members],
        [it.accuracy_search for it in members],
        where="post",
        c="tab:blue",
        label="front before fine-tuning (latency modelled, search split)",
    )
    finalists = f"finalists (latency {result.how}, test split)"
    _mark(axes, [it.measured for it in result.finalists], "o", "tab:orange", finalists)
    _mark(axes, [result.best.measured], "*", "tab:red", "best", 200)
    for (label, it), (marker, color) in zip(result.originals.items(), _ORIGINALS, strict=False):
        _mark(axes, [it], marker, color, label)
    axes.set_xlabel(f"latency, ms ({conditions})")
    axes.set_ylabel("accuracy")
    axes.set_title(f"{result.summary['task']} on {result.summary['target']}, seed {result.summary['seed']}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    write_atomically(out / "front.png", lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def front_table(result: Result, conditions: str) -> str:
    """Return the front as lines of text, fastest first, as it was searched: accuracy simulated, latency modelled."""
    columns = f"{'recipe':10}{'accuracy':>10}{'modelled ms':>13}{'modelled KB':>13}  proposed by"
    rows = [f"the front as searched ({conditions})", columns]
    for candidate in result.front:
        scores = candidate.scores
        row = f"{candidate.recipe.key[:8]:10}{scores.accuracy_search:>10.4f}{ms(scores.latency_ms):>13}"
        rows.append(f"{row}{scores.size_bytes / 1000:>13.0f}  {candidate.proposed_by}")
    return "\n".join(rows)


def finalist_table(result: Result, conditions: str) -> str:
    """Return the originals and the finalists, fastest last; measured ones each with what was predicted."""
    is_measured = result.how == MEASURED
    columns = f"{'':24}{'search':>8}{'likely lost':>13}{'test':>8}{'lost on test, 95%':>19}"
    columns += f"{'ms':>8}{'p10..p90':>16}" if is_measured else f"{'modelled ms':>13}"
    columns += f"{'faster':>8}{'KB':>7}" + f"{'predicted':>11}{'error':>8}" * is_measured
    title = "exported and measured" if is_measured else "simulated, latency modelled and not measured"
    rows = [f"{title} ({conditions}, accuracy on both splits)", columns]
    rows += [_line(label, it, result.baseline) for label, it in result.originals.items()]
    for finalist in sorted(result.finalists, key=lambda it: -it.measured.latency_ms):
        name = f"recipe {finalist.recipe.key[:8]}" + (" (best)" if finalist is result.best else "")
        won = [f"  within {most:g}" for most, it in result.fastest_within.items() if finalist is it]
        prediction = f"{ms(finalist.predicted_latency_ms):>8} ms{finalist.prediction_error:>+8.1%}"
        likely_lost = f"{finalist.likely_drop:.4f}" if isfinite(finalist.likely_drop) else "too large"
        line = _line(name, finalist.measured, result.baseline, likely_lost)
        rows.append("".join([line, prediction * is_measured, *won]))
    as_fast = [label for label, it in result.originals.items() if it.latency_ms <= result.best.measured.latency_ms]
    rows += [f"the best recipe is no faster than {label}" for label in as_fast]
    return "\n".join(rows)


def _line(name: str, measured: Measured, base: Measured, likely_lost: str = "-") -> str:
    searched = f"{measured.accuracy_search:>8.4f}{likely_lost:>13}"
    accuracies = f"{searched}{measured.accuracy_test:>8.4f}{_interval(measured):>19}"
    faster = f"{base.latency_ms / measured.latency_ms:>7.2f}x{measured.size_bytes / 1000:>7.0f}"
    return f"{name:24}{accuracies}{_latency(measured)}{faster}"


def _latency(measured: Measured) -> str:
    if measured.latency_p10_ms is None or measured.latency_p90_ms is None:
        return f"{ms(measured.latency_ms):>13}"
    return f"{ms(measured.latency_ms):>8}{f'{ms(measured.latency_p10_ms)}..{ms(measured.latency_p90_ms)}':>16}"


def _interval(measured: Measured) -> str:
    if measured.drop_test_low is None or measured.drop_test_high is None:
        return "-"
    return f"{measured.drop_test_low:.4f}..{measured.drop_test_high:.4f}"


def _mark(axes: Any, points: Sequence[Measured], marker: str, color: str, label: str, size: int = 60) -> None:
    latencies = [it.latency_ms for it in points]
    accuracies = [it.accuracy_test for it in points]
    axes.scatter(latencies, accuracies, marker=marker, c=color, s=size, label=label, zorder=3)


def _row(candidate: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": candidate.trial, "recipe_key": candidate.recipe.key}
    row |= asdict(candidate.scores)
    row |= {"violation": candidate.violation, "proposed_by": candidate.proposed_by}
    layers = {name: asdict(layer) for name, layer in candidate.recipe.layers.items()}
    return row | {"recipe": json.dumps(layers, sort_keys=True)}
