"""Hydra at the edge: compose a command's configuration, check all of it, and only then run it."""

import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gulliver.search.commands import RUN
from gulliver.search.jobs import BUILD, Job, decisive
from gulliver.tasks.errors import InputError, one_line

_CONFIG_MODULE = "gulliver.conf"


def launch(command: str, arguments: list[str]) -> None:
    """Run the command with these Hydra arguments; raises InputError before any work starts."""
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    flags = [argument for argument in arguments if argument.startswith("-")]
    if not flags or flags in (["-m"], ["--multirun"]):
        jobs = check_all(command, list(expand(overrides, sweep=bool(flags))))
        if not flags and not any(_is_for_launcher(it) for it in overrides):
            RUN[command](jobs[0])
            return
    _launch_hydra(command, arguments)


def check(command: str, overrides: list[str]) -> Job:
    """Return the checked job of these overrides; raises InputError that names the key and the choices."""
    return BUILD[command](compose(command, overrides))


def check_all(command: str, sweep: Sequence[list[str]]) -> list[Job]:
    """Return the checked jobs of a sweep; raises InputError where two would write different results to one place."""
    configs = [compose(command, overrides) for overrides in sweep]
    jobs = [BUILD[command](config) for config in configs]
    writers: dict[Path, int] = {}
    for index, job in enumerate(jobs):
        if (out := getattr(job, "out", None)) is None:
            continue
        first = writers.setdefault(out.resolve(), index)
        if decisive(configs[index]) != decisive(configs[first]):
            differing = _difference(sweep[first], sweep[index])
            raise InputError(f"jobs of a sweep must differ in `out`, but {differing} have out={out}")
    return jobs


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Return the overrides that each has alone, as `seed=1 and seed=2`."""
    alone = (" ".join(it for it in mine if it not in theirs) for mine, theirs in ((one, other), (other, one)))
    return " and ".join(alone)


def compose(command: str, overrides: list[str]) -> dict[str, Any]:
    """Return the command's resolved configuration as plain dictionaries and lists."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = [override for override in overrides if not _is_for_launcher(override)]
    try:
        with initialize_config_module(_CONFIG_MODULE, version_base="1.3"):
            config = hydra_compose(command, own)
        return _plain(OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, command, own)) from error
    except (ValueError, TypeError) as error:
        # Hydra's own, of a number for a group's choice and of one of thousands of digits.
        raise InputError(f"{' '.join(own)} is nothing that Hydra can read: {one_line(error)}") from error


def expand(overrides: list[str], sweep: bool) -> Iterator[list[str]]:
    """Yield the overrides of every job: one, or all combinations of a sweep's choices."""
    if not sweep:
        yield overrides
        return
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise InputError(_explain(error, "search")) from error
    for combination in itertools.product(*map(_choices, parsed)):
        yield list(combination)


def _choices(override: Any) -> list[str]:
    """Return the overrides that one of a sweep stands for."""
    from hydra.errors import HydraException

    if not override.is_sweep_override():
        return [override.input_line or ""]
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except HydraException as error:
        raise InputError(f"a sweep must list its choices, as in seed=1,2, but is {override.input_line}") from error


def _launch_hydra(command: str, arguments: list[str]) -> None:
    import hydra
    from hydra.errors import HydraException

    # Without this Hydra prints an error of its own making and exits with status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"gulliver {command}", *arguments]
    decorate = hydra.main(version_base="1.3", config_path=f"pkg://{_CONFIG_MODULE}", config_name=command)
    try:
        decorate(_JOBS[command])()
    except HydraException as error:
        raise InputError(_explain(error, command)) from error


def _run_job(command: str, config: Any) -> None:
    from omegaconf import OmegaConf

    RUN[command](BUILD[command](_plain(OmegaConf.to_container(config, resolve=True))))


def _search_job(config: Any) -> None:
    _run_job("search", config)


def _solve_job(config: Any) -> None:
    _run_job("solve", config)


def _apply_job(config: Any) -> None:
    _run_job("apply", config)


def _calibrate_job(config: Any) -> None:
    _run_job("calibrate", config)


def _show_job(config: Any) -> None:
    _run_job("show", config)


def _predict_job(config: Any) -> None:
    _run_job("predict", config)


# Launchers send jobs to other processes by name, so each command has a function of its own.
_JOBS = {
    "search": _search_job,
    "solve": _solve_job,
    "apply": _apply_job,
    "calibrate": _calibrate_job,
    "show": _show_job,
    "predict": _predict_job,
}


def _plain(config: Any) -> dict[str, Any]:
    assert isinstance(config, Mapping)
    return {str(key): value for key, value in config.items()}


def _explain(error: Exception, command: str, overrides: Sequence[str] = ()) -> str:
    """Return Hydra's complaint about the overrides as one line that names the key and the choices."""
    text = one_line(str(error).split("Config search path")[0].split("See https://hydra.cc")[0])
    if override := getattr(error, "override", None):
        return f"{override} is not an override in Hydra's grammar: {text}"
    if "Could not override" in text:
        key = text.split("'")[1]
        parent, _, _ = key.rpartition(".")
        # What is known depends on what is chosen, as by target=chip, and on where it is looked for.
        choices = [it for it in overrides if _is_search_path(it) or "." not in it]
        values: Any = compose(command, [it for it in choices if not it.startswith(f"{key}=")])
        for part in filter(None, parent.split(".")):
            values = values.get(part, {}) if isinstance(values, dict) else {}
        known = [name for name in values if name != "_target_"] if isinstance(values, dict) else []
        return f"unknown key {key}; known keys are {', '.join(known) or 'none'}"
    return text


def _is_for_launcher(override: str) -> bool:
    """Say whether the override is about how Hydra launches jobs, not about what they are."""
    return override.lstrip("+~").startswith("hydra") and not _is_search_path(override)


def _is_search_path(override: str) -> bool:
    return override.startswith("hydra.searchpath")
