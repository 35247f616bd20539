"""Where finalists are made and judged: on the target itself, or, where it cannot run here, by what is known of it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from gulliver.compressors.compress import Original, compress
from gulliver.compressors.export import of_batch, save_openvino, to_openvino
from gulliver.compressors.finetune import Watch
from gulliver.evaluators.latency.runtime import Runtime
from gulliver.evaluators.latency.target import LatencyModel, Target
from gulliver.evaluators.size import Size
from gulliver.search.examiner import Examiner
from gulliver.search.exported_record import made_of, read_exported, write_exported
from gulliver.search.finalists import MEASURED, MODELLED, Exported, Measured
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space, untouched
from gulliver.tasks.errors import named
from torch import nn

_MODEL_FILE = "model.xml"


class Bench(Protocol):
    """Makes finalists, scores them on both splits, and says how long they take."""

    @property
    def labels(self) -> dict[str, str]:
        """Return by name what the untouched networks are called."""

    @property
    def in_float(self) -> str:
        """Return the name of the untouched network in the target's own float type."""

    def baselines(self) -> dict[str, Exported]:
        """Return the untouched networks by the names of `labels`."""

    def export(self, name: str, recipe: Recipe, watch: Watch | None = None) -> Exported:
        """Return the recipe's network scored on both splits; made once, then read from the folder.

        `watch` hears how far fine-tuning has come, which goes on where it was interrupted.
        """

    def measure(self, exported: Mapping[str, Exported]) -> dict[str, Measured]:
        """Return what is then known of the networks, their latencies measured or modelled."""


def make_bench(original: Original, target: Target, folder: Path) -> Bench:
    """Return the bench for the target; exported networks go to the folder."""
    runtime = target.runtime
    return ModellingBench(original, target, folder) if runtime is None else MeasuringBench(original, runtime, folder)


@dataclass(frozen=True)
class MeasuringBench:
    """The bench of a target that runs here: what is scored and timed is the exported file itself."""

    original: Original
    runtime: Runtime
    folder: Path

    @property
    def labels(self) -> dict[str, str]:
        """Return what the untouched networks are called."""
        return {"baseline": "OpenVINO fp32", "bf16": "OpenVINO bf16"}

    @property
    def in_float(self) -> str:
        """Return the name of the untouched network in the target's own float type."""
        return {"float32": "baseline", "bfloat16": "bf16"}[self.runtime.float_type]

    def baselines(self) -> dict[str, Exported]:
        """Return the untouched network exported for fp32 and for bf16."""
        recipe = untouched(self.original.graph)
        return {
            "baseline": self._export("baseline", recipe, "float32", half=False),
            "bf16": self._export("bf16", recipe, "bfloat16"),
        }

    def export(self, name: str, recipe: Recipe, watch: Watch | None = None) -> Exported:
        """Return the recipe's network exported and scored on both splits; made once, then read from the folder."""
        return self._export(name, recipe, self.runtime.float_type, watch=watch)

    def measure(self, exported: Mapping[str, Exported]) -> dict[str, Measured]:
        """Return the measurements of all exported networks, their inferences interleaved."""
        inputs = tuple(of_batch(tensor, self.runtime.batch) for tensor in self.original.calibration[0])
        files = {name: (Path(it.path or ""), it.float_type) for name, it in exported.items()}
        timings = self.runtime.measure(files, inputs)
        return {
            name: _known(it, timings[name].median_ms, timings[name].p10_ms, timings[name].p90_ms)
            for name, it in exported.items()
        }

    def _export(
        self, name: str, recipe: Recipe, float_type: str, half: bool = True, watch: Watch | None = None
    ) -> Exported:
        folder, batch = self.folder / name, self.runtime.batch
        wanted = made_of(self.original, recipe, batch=batch, float_type=float_type, half=half)
        if (known := read_exported(folder, wanted)) is not None:
            return known
        model = _compressed(self.original, recipe, folder, watch)
        path = folder / _MODEL_FILE
        size_bytes = save_openvino(to_openvino(model, self.original.task.example_inputs, batch), path, half)
        scores = self._examiner.scores(self.runtime.module(path, float_type))
        return write_exported(
            folder, wanted, Exported(str(path), size_bytes=size_bytes, float_type=float_type, **scores)
        )

    @cached_property
    def _examiner(self) -> Examiner:
        return Examiner(self.original)


@dataclass(frozen=True)
class ModellingBench:
    """The bench of a target that is only modelled: the simulated network is scored, and priced by the model.

    Networks are exported all the same, where OpenVINO can convert them.
    """

    original: Original
    target: Target
    folder: Path

    @property
    def labels(self) -> dict[str, str]:
        """Return what the untouched network is called."""
        return {"baseline": f"original in {self.target.capabilities.float_type}"}

    @property
    def in_float(self) -> str:
        """Return the name of the untouched network, of which there is one."""
        return "baseline"

    def baselines(self) -> dict[str, Exported]:
        """Return the untouched network, in the target's floating-point type."""
        return {"baseline": self.export("baseline", untouched(self.original.graph))}

    def export(self, name: str, recipe: Recipe, watch: Watch | None = None) -> Exported:
        """Return the recipe's simulated network scored on both splits; made once, then read from the folder."""
        folder = self.folder / name
        wanted = made_of(self.original, recipe, target=repr(self.target), prices=self._latency.basis)
        if (known := read_exported(folder, wanted)) is not None:
            return known
        model = _compressed(self.original, recipe, folder, watch)
        path, problem = self._save(model, folder / _MODEL_FILE)
        exported = Exported(
            path,
            size_bytes=int(Size(self.original.graph)(recipe)),
            float_type=self.target.capabilities.float_type,
            modelled_latency_ms=self._latency.total_ms(self.target.lower(self.original.graph, recipe)),
            not_exported=problem,
            **self._examiner.scores(model),
        )
        return write_exported(folder, wanted, exported)

    def measure(self, exported: Mapping[str, Exported]) -> dict[str, Measured]:
        """Return the networks' scores with their modelled latencies; nothing is measured."""
        return {name: _known(it, it.modelled_latency_ms or 0.0) for name, it in exported.items()}

    def _save(self, model: nn.Module, path: Path) -> tuple[str | None, str]:
        """Return the exported file, or why there is none."""
        try:
            save_openvino(to_openvino(model, self.original.task.example_inputs, self.target.batch), path)
        except Exception as error:  # OpenVINO's own errors have no other base class in common
            return None, named(error)
        return str(path), ""

    @cached_property
    def _latency(self) -> LatencyModel:
        return self.target.latency_model(self.original, Space(self.original.graph, self.target.capabilities))

    @cached_property
    def _examiner(self) -> Examiner:
        return Examiner(self.original)


def _compressed(original: Original, recipe: Recipe, folder: Path, watch: Watch | None) -> nn.Module:
    """Return the recipe's network; what its fine-tuning would need to go on is in the folder until it is done."""
    checkpoints = folder / "checkpoints"
    model = compress(original, recipe, checkpoints=checkpoints, watch=watch)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return model


def _known(
    exported: Exported, latency_ms: float, low_ms: float | None = None, high_ms: float | None = None
) -> Measured:
    return Measured(
        accuracy_search=exported.accuracy_search,
        accuracy_test=exported.accuracy_test,
        latency_ms=latency_ms,
        latency_p10_ms=low_ms,
        latency_p90_ms=high_ms,
        size_bytes=exported.size_bytes,
        drop_test_low=exported.drop_test_low,
        drop_test_high=exported.drop_test_high,
        how=MEASURED if exported.modelled_latency_ms is None else MODELLED,
    )
