"""What is kept of an exported network beside its files, and read again only where it would be made of the same."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gulliver.compressors.compress import Original
from gulliver.search.finalists import Exported
from gulliver.search.task_record import task_record
from gulliver.spaces.recipe import Recipe
from gulliver.tasks.cache import write_atomically

_FILE = "exported.json"


def made_of(original: Original, recipe: Recipe, **conditions: Any) -> dict[str, Any]:
    """Return all that an exported network and its scores depend on, plain; the conditions are the target's."""
    finetune = None if recipe.finetune is None else asdict(recipe.finetune)
    record = {"recipe": recipe.key, "finetune": finetune, **task_record(original), **conditions}
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def read_exported(folder: Path, wanted: Mapping[str, Any]) -> Exported | None:
    """Return what is kept in the folder; None where there is nothing, or what was made of something else."""
    record = folder / _FILE
    kept = json.loads(record.read_text()) if record.exists() else {}
    return _found_in(folder, Exported(**kept["exported"])) if kept.get("made_of") == wanted else None


def _found_in(folder: Path, exported: Exported) -> Exported | None:
    """Return what is kept with its file where the folder is now; None where that file is gone."""
    if exported.path is None:
        return exported
    # The folder may have been moved, or be named from another working directory.
    path = folder / Path(exported.path).name
    return replace(exported, path=str(path)) if path.exists() else None


def write_exported(folder: Path, wanted: Mapping[str, Any], exported: Exported) -> Exported:
    """Keep what was made in the folder, and return it."""
    text = json.dumps({"made_of": wanted, "exported": asdict(exported)})
    write_atomically(folder / _FILE, lambda temporary: temporary.write_text(text))
    return exported
