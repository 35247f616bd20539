"""What the sensitivity pass leaves behind: a table, a heat map, and how well it ranked what the trials lost."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gulliver.compressors.compress import Original
from gulliver.evaluators.factors import Costs, total
from gulliver.search.sensitivity import Sensitivities, SensitivitySettings, measure_sensitivities
from gulliver.search.study import Candidate
from gulliver.spaces.space import Space
from gulliver.tasks.cache import write_atomically
from gulliver.tasks.errors import InputError

FILES = ["sensitivities.csv", "sensitivities.png"]
_RECORD = "sensitivities.json"


def write_sensitivities(out: Path, sensitivities: Sensitivities, space: Space) -> None:
    """Write sensitivities.csv, a row for each choice, and sensitivities.png, layers by choices."""
    import pandas

    rows = [
        {"dimension": name, "rung": rung, "loss": loss, "method": sensitivities.method}
        for (name, rung), loss in sensitivities.losses.items()
    ]
    table = pandas.DataFrame(rows)
    write_atomically(out / FILES[0], lambda temporary: table.to_csv(temporary, index=False))
    draw_sensitivities(out / FILES[1], sensitivities, space)


def save_sensitivities(out: Path, sensitivities: Sensitivities) -> None:
    """Write sensitivities.json, from which `gulliver solve` reads them again."""
    record = {
        "method": sensitivities.method,
        "losses": [[name, rung, loss] for (name, rung), loss in sensitivities.losses.items()],
        "pairs": [[first, second, share] for (first, second), share in sensitivities.pairs.items()],
    }
    write_atomically(out / _RECORD, lambda temporary: temporary.write_text(json.dumps(record)))


def read_sensitivities(run: Path) -> Sensitivities:
    """Return what `save_sensitivities` wrote; raises InputError where the folder has none."""
    path = run / _RECORD
    if not path.exists():
        raise InputError(f"run must be the folder of a search with sampler=solve, but {path} does not exist")
    record = json.loads(path.read_text())
    losses = {(name, rung): loss for name, rung, loss in record["losses"]}
    pairs = {(first, second): share for first, second, share in record["pairs"]}
    return Sensitivities(record["method"], losses, pairs)


def draw_sensitivities(path: Path, sensitivities: Sensitivities, space: Space) -> None:
    """Write the heat map: a row for each layer, a column for each choice, colours by the logarithm of the loss."""
    import matplotlib.colors
    import matplotlib.figure

    layers = list(dict.fromkeys(dimension.owner for dimension in space.dimensions))
    columns = list(dict.fromkeys((name.partition("/")[0], rung) for name, rung in sensitivities.losses))
    losses = np.full((len(layers), len(columns)), np.nan)
    for (name, rung), loss in sensitivities.losses.items():
        method, _, owner = name.partition("/")
        losses[layers.index(owner), columns.index((method, rung))] = max(loss, 1e-7)
    figure = matplotlib.figure.Figure(figsize=(2 + 0.45 * len(columns), 1.5 + 0.25 * len(layers)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(losses, aspect="auto", norm=matplotlib.colors.LogNorm(), cmap="viridis")
    axes.set_xticks(range(len(columns)), [f"{method} {rung}" for method, rung in columns], rotation=90)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_title(f"loss of each choice alone ({sensitivities.method})")
    figure.colorbar(image, label="loss")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def rank_correlations(
    original: Original,
    space: Space,
    settings: SensitivitySettings,
    searched: Sensitivities,
    candidates: Sequence[Candidate],
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return how well the sensitivities that were searched with, and the gradient's, rank the losses.

    With them come the methods that cannot judge choices of this space, and why.
    """
    known, refused = {searched.method: searched}, dict[str, str]()
    if "gradient" not in known:
        try:
            known["gradient"] = measure_sensitivities(original, space, settings, "gradient")
        except InputError as error:
            refused["gradient"] = str(error)
    return {method: rank_correlation(it, space, candidates) for method, it in known.items()}, refused


def rank_correlation(sensitivities: Sensitivities, space: Space, candidates: Sequence[Candidate]) -> float | None:
    """Return Spearman's correlation of the predicted losses with the accuracies lost.

    None for fewer than 3 valid trials, and where one of both is the same for all.
    """
    from scipy.stats import spearmanr

    valid = [it for it in candidates if it.scores.valid]
    losses = predicted_losses(sensitivities, space, valid)
    lost = np.array([-it.scores.accuracy_search for it in valid])
    if len(valid) < 3 or not np.ptp(losses) or not np.ptp(lost):
        return None
    return float(spearmanr(losses, lost).statistic)


def predicted_losses(sensitivities: Sensitivities, space: Space, candidates: Sequence[Candidate]) -> Costs:
    """Return shape (candidates,): the losses that the sensitivities predict for the candidates' recipes."""
    encoded = [space.encode(candidate.recipe) for candidate in candidates]
    rungs = np.array([[it[dimension.name] for dimension in space.dimensions] for it in encoded], dtype=np.intp)
    return total(sensitivities.factors(space), rungs.reshape(-1, len(space.dimensions)))
