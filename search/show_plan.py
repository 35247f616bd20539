"""A recipe's plan on a target: every kernel call in order, how long it takes, what bounds it, and what fused."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.kernel import KernelCall, Price
from gulliver.evaluators.latency.target import Target
from gulliver.spaces.recipe import Recipe
from gulliver.spaces.space import Space
from gulliver.tasks.protocol import Task

_WIDTH = 24


@dataclass(frozen=True)
class PlannedCall:
    """A kernel call with its price, and the milliseconds of all calls before it."""

    call: KernelCall
    price: Price
    start_ms: float

    @property
    def latency_ms(self) -> float:
        """Return the call's milliseconds."""
        return 1e3 * self.price.seconds


@dataclass(frozen=True)
class Plan:
    """A recipe's calls on a target; `overhead_ms` is what a network costs beside them.

    `left_out` says by layer what of the recipe it cannot take, and why.
    """

    calls: tuple[PlannedCall, ...]
    overhead_ms: float
    basis: str
    left_out: Mapping[str, str]

    @property
    def latency_ms(self) -> float:
        """Return the milliseconds of the whole network."""
        return self.overhead_ms + sum(it.latency_ms for it in self.calls)


def make_plan(recipe: Recipe, task: Task, target: Target) -> Plan:
    """Return the recipe's plan on the target, without what its layers cannot take; untimed kernels are timed.

    Raises InputError where the recipe is for another network or asks for what the target cannot run.
    """
    original = read_original(task)
    recipe, left_out = original.applicable(recipe)
    kinds = {name: layer.kind for name, layer in original.graph.layers.items()}
    target.capabilities.check(recipe, kinds, target.name)
    calls = target.lower(original.graph, recipe)
    model = target.latency_model(original, Space(original.graph, target.capabilities), calls)
    model.require([call.kernel for call in calls])
    planned = tuple(_in_order(calls, [model.price(call) for call in calls]))
    return Plan(planned, model.total_ms(()), model.basis, left_out)


def show_plan(recipe: Recipe, task: Task, target: Target) -> str:
    """Return the recipe's plan on the target as a waterfall, one line a call, after what of it is left out."""
    plan = make_plan(recipe, task, target)
    title = f"recipe {recipe.key} of {task.name} on {target.name} ({target.conditions})"
    left_out = [f"{name}: {reason}" for name, reason in plan.left_out.items()]
    lines = [title, *left_out, f"{len(plan.calls)} calls, {plan.latency_ms:.4f} ms; {plan.basis}", ""]
    return "\n".join([*lines, *waterfall(plan), "", bounds(plan)])


def waterfall(plan: Plan) -> Iterator[str]:
    """Yield the header and a line for each call, with a bar from its start to its end."""
    yield f"{'start ms':>9}{'ms':>9}{'share':>7}  {'':{_WIDTH}}  {'bound by':12}  call"
    for it in plan.calls:
        times = f"{it.start_ms:>9.4f}{it.latency_ms:>9.4f}{it.latency_ms / plan.latency_ms:>7.1%}"
        yield f"{times}  {_bar(it, plan):{_WIDTH}}  {it.price.bound_by or '-':12}  {_words(it)}"
    if plan.overhead_ms > 0:
        share = plan.overhead_ms / plan.latency_ms
        yield f"{'':9}{plan.overhead_ms:>9.4f}{share:>7.1%}  {'':{_WIDTH}}  {'-':12}  whatever the calls are"


def bounds(plan: Plan) -> str:
    """Return the share of the time that is bound by each unit."""
    spent: defaultdict[str, float] = defaultdict(float)
    for it in plan.calls:
        spent[it.price.bound_by or "not known"] += it.latency_ms / plan.latency_ms
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return "bound by      " + ", ".join(f"{name} {share:.0%}" for name, share in ordered)


def _in_order(calls: Sequence[KernelCall], prices: Sequence[Price]) -> Iterator[PlannedCall]:
    start_ms = 0.0
    for call, price in zip(calls, prices, strict=True):
        yield PlannedCall(call, price, start_ms)
        start_ms += 1e3 * price.seconds


def _bar(it: PlannedCall, plan: Plan) -> str:
    first, last = (int(_WIDTH * at / plan.latency_ms) for at in (it.start_ms, it.start_ms + it.latency_ms))
    return " " * min(first, _WIDTH - 1) + "#" * max(1, last - first)


def _words(it: PlannedCall) -> str:
    """Return what is called and for whom, what is fused into it, how it is split, and why not more is fused."""
    call, plan = it.call, it.price.plan
    fused = f" + {', '.join(call.fused)}" if call.fused else ""
    split = f" [{plan} parallel]" if plan != "whole" else ""
    note = f" ({call.note})" if call.note else ""
    return f"{call.owner}: {call.kernel.description}{fused}{split}{note}"
