"""A search from beginning to end: calibrate, search, make finalists, measure, report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gulliver.compressors.compress import Original, read_original
from gulliver.compressors.finetune import Watch
from gulliver.evaluators.accuracy import check_task, score
from gulliver.evaluators.latency.price_tables import CallTable, call_tables, calls_of, price
from gulliver.evaluators.latency.target import Target
from gulliver.search.bench import Bench, make_bench
from gulliver.search.finalists import Exported
from gulliver.search.guide import Guide
from gulliver.search.incumbents import Incumbents, samples_saved
from gulliver.search.journal import Journal
from gulliver.search.make_finalists import FinalistMaker
from gulliver.search.make_guide import make_guide
from gulliver.search.make_result import ResultMaker
from gulliver.search.metrics import best_metrics, progress_of
from gulliver.search.report import (
    ARTIFACTS,
    draw_front,
    finalist_table,
    front_table,
    write_recipes,
    write_summary,
    write_tables,
)
from gulliver.search.result import Result
from gulliver.search.run_directory import CONFIG_FILE, FIT_FILE, SETTINGS_FILE, RunDirectory, settings_record
from gulliver.search.scoring import Scoring
from gulliver.search.sensitivity import measure_sensitivities
from gulliver.search.sensitivity_report import FILES as SENSITIVITY_FILES
from gulliver.search.sensitivity_report import save_sensitivities, write_sensitivities
from gulliver.search.settings import SearchSettings
from gulliver.search.study import STUDY_FILE, Candidate, Study, open_study
from gulliver.search.task_record import task_record
from gulliver.search.tracking import Tracker, TrackingSettings
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.protocol import Task
from torch import nn
from tqdm import tqdm

Say = Callable[[str], None]

# What a search is known by: as it was launched, and all that decided its outcome.
_MADE_BY = (CONFIG_FILE, SETTINGS_FILE)
# Enough to see a curve by; finalists are scored on all.
_WATCHED_SAMPLES = 1000


def run_search(
    task: Task,
    target: Target,
    settings: SearchSettings,
    tracking: TrackingSettings,
    out: Path,
    say: Say,
    config: Mapping[str, Any] | None = None,
) -> Result:
    """Return the search's result, every file of it in `out`; a search that was interrupted there goes on.

    `config` is what a command was launched with, and is kept with its results.
    Raises InputError where the settings are impossible, or `out` holds another search.
    """
    check_task(task)
    if settings != (settings := settings.for_task(task)):
        say(f"{task.name} has no `training(epoch)`: finalists are not fine-tuned")
    directory = RunDirectory(out)
    with directory.locked():
        with directory.phase("prepare"):
            original = read_original(task)
            space = Space(original.graph, target.capabilities, settings.space)
            # A search that is refused adds no seconds to those of the one that is there.
            directory.claim(settings_record(task_record(original), target, settings))
        tracker = Tracker(tracking, out)
        with tracker.ending():
            return _Search(original, target, settings, space, directory, tracker, say, config).run()


@dataclass(frozen=True)
class _Search:
    original: Original
    target: Target
    settings: SearchSettings
    space: Space
    directory: RunDirectory
    tracker: Tracker
    say: Say
    config: Mapping[str, Any] | None

    def run(self) -> Result:
        """Return the result after every phase has run or was found done in the run directory."""
        self._announce()
        bench = make_bench(self.original, self.target, self.directory.path / "finalists")
        with self.directory.phase("baseline"):
            baselines = bench.baselines()
        with self.directory.phase("calibrate"):
            scoring = self._scoring()
        with self.directory.phase("sensitivity"):
            guide = self._guide(scoring) if self.settings.sampler.guided else None
        study = self._open_study(scoring, guide)
        name = f"{self.original.task.name} on {self.target.name}, {self.directory.path.name}"
        self.tracker.start(name, self._parameters(), study.keys())
        with self.directory.phase("search"):
            self._run_study(study, scoring)
        with self.directory.phase("finalists"):
            exported = self._make_finalists(bench, study, scoring, baselines["baseline"])
        with self.directory.phase("measure"):
            measured = bench.measure(baselines | exported)
        made = ResultMaker(study, scoring, bench, self.directory, baselines["baseline"], exported, measured, self.say)
        result = made.make()
        self._report(study.candidates(), result)
        return result

    def _announce(self) -> None:
        task, graph = self.original.task, self.original.graph
        parameters = sum(layer.weight_count for layer in graph.layers.values())
        self.say(f"{task.name}: {len(graph.layers)} layers, {parameters:,} weights, network {self.original.network}")
        self.say(f"target {self.target.name} ({self.target.conditions}), {len(self.space.dimensions)} choices to make")
        for note in self.space.ladders.notes:
            self.say(f"  {note}")

    def _scoring(self) -> Scoring:
        if self.target.runtime is not None:
            self.say("calibrating the latency model on this machine (kernel times are kept for the next run)")
        # Trials of one search are priced alike, whenever it goes on.
        fit_file = self.directory.path / FIT_FILE
        calls = calls_of(self._tables) if self.settings.sampler.guided else None
        latency = self.target.latency_model(self.original, self.space, calls, fit_file)
        self.say(f"latency: {latency.basis}")
        incumbents = Incumbents(self.journal, self.directory.path / "samples")
        return Scoring(self.original, self.target, latency, self.settings, incumbents)

    @cached_property
    def _tables(self) -> list[CallTable]:
        """The kernel calls of all recipes of the space: what is timed, and what the guide goes by."""
        return call_tables(self.space, self.target)

    @cached_property
    def journal(self) -> Journal:
        """Every score of this search, of earlier processes too."""
        return Journal(self.directory.path / "scores.jsonl")

    def _guide(self, scoring: Scoring) -> Guide:
        """Return the measured sensitivities as a problem to solve, with the prices of all recipes."""
        settings = self.settings.sensitivity
        self.say("measuring what each choice costs alone (sensitivities are kept for the next run)")
        sensitivities = measure_sensitivities(self.original, self.space, settings, settings.method)
        save_sensitivities(self.directory.path, sensitivities)
        write_sensitivities(self.directory.path, sensitivities, self.space)
        prices = price(self.space, self._tables, scoring.latency)
        return make_guide(self.space, sensitivities, prices, self.settings, scoring.baseline_accuracy)

    def _open_study(self, scoring: Scoring, guide: Guide | None) -> Study:
        path, score, constraints = self.directory.path / STUDY_FILE, scoring.score, scoring.constraints
        return open_study(path, self.space, self.settings, self.journal, score, constraints, guide)

    def _run_study(self, study: Study, scoring: Scoring) -> None:
        done = study.candidates()
        self.say(f"searching: {len(done)} of {self.settings.trials} trials are done")
        bar = tqdm(total=self.settings.trials, initial=len(done), desc="search", unit="trial")
        for candidate in done:
            self.tracker.log_trial(candidate, {})

        progress = progress_of(done, self.settings.objectives)

        def told(candidate: Candidate) -> None:
            nonlocal progress
            progress = progress.after(candidate)
            summary = progress.metrics(scoring.baseline_accuracy)
            self.tracker.log_trial(candidate, summary)
            bar.set_postfix({"front": f"{summary['front_size']:.0f}", "hypervolume": f"{summary['hypervolume']:.3f}"})
            bar.update()

        with bar:
            study.run(told)
        if (saved := samples_saved(self.journal)) > 0:
            self.say(f"racing scored {1 - saved:.0%} of the samples: {saved:.0%} were saved")

    def _make_finalists(self, bench: Bench, study: Study, scoring: Scoring, baseline: Exported) -> dict[str, Exported]:
        """Return the finalists by recipe key; trials that they ask for are logged as all are."""

        def told(candidate: Candidate) -> None:
            progress = progress_of(study.candidates(), self.settings.objectives)
            self.tracker.log_trial(candidate, progress.metrics(scoring.baseline_accuracy))

        original = scoring.baseline_accuracy
        return FinalistMaker(bench, study, baseline, self.settings, original, told, self._watch, self.say).make()

    def _watch(self, recipe: Recipe) -> Watch | None:
        """Return what logs how a recipe's accuracy comes back in fine-tuning; None where nothing is logged."""

        def watch(stage: str, epoch: int, student: nn.Module) -> None:
            accuracy = score(self.original.task, student, "search", _WATCHED_SAMPLES)
            self.tracker.log_recovery(recipe.key, stage, epoch, accuracy)

        return watch if self.tracker.is_logging else None

    def _report(self, candidates: Sequence[Candidate], result: Result) -> None:
        out = self.directory.path
        write_tables(out, candidates, result.front)
        write_recipes(out, result)
        draw_front(out, candidates, result, self.target.conditions)
        write_summary(out, result.summary)
        if self.config is not None:
            self.directory.write_config(self.config)
        self.tracker.finish(best_metrics(result), out, [*_MADE_BY, *ARTIFACTS, *SENSITIVITY_FILES])
        self.say("\n" + front_table(result, self.target.conditions))
        self.say("\n" + finalist_table(result, self.target.conditions))

    def _parameters(self) -> dict[str, object]:
        task, target, settings = self.original.task.name, self.target.name, self.settings
        flat = {"task": task, "target": target, "conditions": self.target.conditions, "trials": settings.trials}
        sampler = type(settings.sampler).__name__.lower()
        return flat | {"seed": settings.seed, "sampler": sampler, "max_drop": settings.budget.max_drop}
