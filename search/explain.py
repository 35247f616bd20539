"""Why a budget was not met: how fast one could be at the accuracy bar, and which entry had best be relaxed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gulliver.search.finalists import Measured
from gulliver.search.settings import Budget
from gulliver.search.study import Candidate
from gulliver.search.units import ms

# The entries of a budget, and the cost that each limits.
_LIMITED = {"max_drop": "drop", "max_latency_ms": "latency_ms", "max_size_bytes": "size_bytes"}
_BINDING = {
    "max_drop": "by the accuracy that each wins back where it is left alone",
    "max_latency_ms": "by the share of the modelled time that is left in each",
    "max_size_bytes": "by the share of the bytes that are left in each",
}


@dataclass(frozen=True)
class Known:
    """What one recipe costs in the budget's terms, and how that is known: measured, or modelled before fine-tuning."""

    name: str
    drop: float
    latency_ms: float
    size_bytes: float
    how: str


@dataclass(frozen=True)
class Relaxation:
    """The entry that a budget would have to relax for a known recipe to be within it."""

    entry: str
    asked: float
    needed: float
    known: Known

    @property
    def relative(self) -> float:
        """Return by what share the entry grows; infinite where it was 0."""
        return self.needed / self.asked - 1 if self.asked > 0 else math.inf


@dataclass(frozen=True)
class Explanation:
    """The fastest known recipe at the accuracy bar and the smallest single relaxation; None where there is none."""

    closest: Known
    missed: str
    fastest_at_bar: Known | None
    relaxation: Relaxation | None


def measured_costs(name: str, measured: Measured, original_accuracy: float) -> Known:
    """Return what an exported network costs, its accuracy lost on the test split."""
    drop = original_accuracy - measured.accuracy_test
    return Known(name, drop, measured.latency_ms, measured.size_bytes, measured.how)


def modelled_costs(name: str, candidate: Candidate, original_accuracy: float, drift: float) -> Known:
    """Return what a candidate would cost, its accuracy lost on the search split, its latency scaled by the drift."""
    scores, how = candidate.scores, "modelled, before any fine-tuning"
    return Known(name, original_accuracy - scores.accuracy_search, scores.latency_ms * drift, scores.size_bytes, how)


def explain(known: Sequence[Known], closest: Known, budget: Budget) -> Explanation:
    """Return why the budget was not met, `closest` being the recipe that is handed over and `known` all others too."""
    at_bar = [it for it in known if it.drop <= budget.max_drop]
    return Explanation(
        closest=closest,
        missed=most_missed(closest, budget),
        fastest_at_bar=min(at_bar, key=lambda it: it.latency_ms, default=None),
        relaxation=smallest_relaxation(known, budget),
    )


def smallest_relaxation(known: Sequence[Known], budget: Budget) -> Relaxation | None:
    """Return the smallest relative relaxation of one entry that a known recipe needs, the others being kept.

    What is no number is within no entry, however relaxed.
    """
    single = (
        Relaxation(missed[0], limits(budget)[missed[0]], getattr(it, _LIMITED[missed[0]]), it)
        for it in known
        if len(missed := _missed(it, budget)) == 1
    )
    possible = (it for it in single if math.isfinite(it.needed))
    return min(possible, key=lambda it: (it.relative, it.needed), default=None)


def most_missed(known: Known, budget: Budget) -> str:
    """Return the entry that the recipe exceeds by the largest share; accuracy where it exceeds none."""
    entries = _missed(known, budget)
    relaxations = [Relaxation(it, limits(budget)[it], getattr(known, _LIMITED[it]), known) for it in entries]
    return max(relaxations, key=lambda it: it.relative).entry if relaxations else "max_drop"


def limits(budget: Budget) -> dict[str, float]:
    """Return the entries of the budget that limit something."""
    return {entry: float(limit) for entry in _LIMITED if (limit := getattr(budget, entry)) is not None}


def explanation_lines(explanation: Explanation, binding: Mapping[str, float]) -> list[str]:
    """Return the explanation in words; `binding` are the layers that bind, by what each of them holds."""
    closest, fastest, relaxation = explanation.closest, explanation.fastest_at_bar, explanation.relaxation
    chosen = f"{closest.name}, chosen on the search split, loses {_costs(closest)}"
    lines = [f"The budget is not met on the test split: {chosen}."]
    if fastest is None:
        lines.append("No recipe that was tried meets the accuracy bar.")
    else:
        lines.append(f"Least latency at the accuracy bar: {fastest.name} loses {_costs(fastest)} ({fastest.how}).")
    if binding:
        layers = ", ".join(f"{name} ({share:.3g})" for name, share in binding.items())
        lines.append(f"What binds: {layers}, {_BINDING[explanation.missed]}.")
    if relaxation is None:
        lines.append("No relaxation of one entry alone brings a known recipe within the budget.")
    else:
        asked, needed = f"{relaxation.asked:.10g}", f"{_round_up(relaxation.needed):.10g}"
        source = f"{relaxation.known.name}, {relaxation.known.how}"
        lines.append(f"What helps most: budget.{relaxation.entry}={needed} instead of {asked} ({source}).")
    return lines


def _missed(known: Known, budget: Budget) -> list[str]:
    return [entry for entry, limit in limits(budget).items() if not getattr(known, _LIMITED[entry]) <= limit]


def _costs(known: Known) -> str:
    return f"{known.drop:.4f} at {ms(known.latency_ms)} ms and {known.size_bytes / 1000:.0f} KB"


def _round_up(value: float) -> float:
    """Return the value to three digits, never less than it is."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return math.ceil(value / unit) * unit
