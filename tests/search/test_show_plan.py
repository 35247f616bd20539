import pytest
import torch
from gulliver.compressors.compress import read_original
from gulliver.evaluators.latency.calibration import kernel_table
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.evaluators.latency.kernel import KernelCall, MemoryKernel, Price
from gulliver.search.commands import run_show_job
from gulliver.search.launch import check
from gulliver.search.show_plan import Plan, PlannedCall, bounds, make_plan, show_plan, waterfall
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe, Sparsify
from gulliver.tasks.errors import InputError
from gulliver.tasks.moe_block import MoeBlock
from torch import nn

TASK = MoeBlock(width=64, hidden=32, samples=2)
SMALL = ["task=moe_block", "task.width=64", "task.hidden=32", "task.samples=2"]
CHIP = ChipTarget("ascend_910b2", batch=4)


class Tiny:
    """Two layers, for a plan on this machine."""

    name = "tiny"
    example_inputs = (torch.zeros(1, 64),)

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)).eval()

    def calibration(self):
        return [(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)),)]


@pytest.fixture(scope="module")
def recipe():
    """Return all experts in int8, but the first one's down layer in floating point."""
    layers = read_original(TASK).graph.layers
    int8 = dict.fromkeys(layers, LayerRecipe(quantize=Quantize()))
    return Recipe(int8 | {"experts.0.down": LayerRecipe()})


def test_the_waterfall_adds_up_to_the_modelled_latency(recipe):
    plan = make_plan(recipe, TASK, CHIP)
    calls = CHIP.lower(read_original(TASK).graph, recipe)
    assert [it.call for it in plan.calls] == list(calls)
    assert plan.latency_ms == pytest.approx(CHIP.latency.total_ms(calls))
    ends = [it.start_ms + it.latency_ms for it in plan.calls]
    assert [it.start_ms for it in plan.calls] == pytest.approx([0.0, *ends[:-1]])
    assert ends[-1] == pytest.approx(plan.latency_ms)


def test_a_waterfall_by_hand():
    calls = (KernelCall(MemoryKernel("round", 2000), "images"), KernelCall(MemoryKernel("add", 8000), "sum", (), "why"))
    prices = (Price(1e-3, "memory", "fitted"), Price(3e-3, "", "kernel times"))
    planned = tuple(PlannedCall(*it) for it in zip(calls, prices, (0.0, 1.0), strict=True))
    plan = Plan(planned, overhead_ms=1.0, basis="by hand", left_out={})
    header, *rows = waterfall(plan)
    assert header.split() == ["start", "ms", "ms", "share", "bound", "by", "call"]
    # Of 24 characters 4.8 are a millisecond's.
    assert [row.split(maxsplit=5) for row in rows[:2]] == [
        ["0.0000", "1.0000", "20.0%", 4 * "#", "memory", "images: round, 2 KB"],
        ["1.0000", "3.0000", "60.0%", 15 * "#", "-", "sum: add, 8 KB (why)"],
    ]
    assert rows[1].index("#") - rows[0].index("#") == 4
    assert rows[2].split(maxsplit=3) == ["1.0000", "20.0%", "-", "whatever the calls are"]
    assert bounds(plan) == "bound by      not known 60%, memory 20%"


def test_every_call_has_a_line_with_its_share_its_bound_and_what_fused_or_why_not(recipe):
    lines = show_plan(recipe, TASK, CHIP).splitlines()
    plan = make_plan(recipe, TASK, CHIP)
    rows = [line for line in lines if "%" in line and ": " in line and line.startswith(" ")]
    assert len(rows) == len(plan.calls)
    assert sum(float(line.split()[2].rstrip("%")) for line in rows) == pytest.approx(100, abs=0.05 * len(rows))
    reason = "the gated MLP is not fused: experts.0.down stays in floating point"
    assert sum(reason in line for line in rows) == 4  # gate, up, product, down
    assert sum("+ experts.1.up, silu, mul, experts.1.down" in line for line in rows) == 1
    assert lines[-1].startswith("bound by      launch ")
    assert "modelled" in lines[0]


def test_what_a_layer_cannot_take_is_said_below_the_key_of_the_file():
    asked = Recipe({"0": LayerRecipe(), "2": LayerRecipe(Sparsify(0.5))})
    title, left_out, total, *_ = show_plan(asked, Tiny(), CHIP).splitlines()
    assert title.startswith(f"recipe {asked.key} of tiny on ascend_910b2")
    assert left_out == "2: no channels are removed: of its group, its channels are the network's outputs"
    assert total.startswith("2 calls, ")


def test_a_bar_is_where_the_call_is():
    (bar, longer) = (line[27:51] for line in show_plan(*_two_calls()).splitlines()[4:6])
    assert set(bar.strip()) == set(longer.strip()) == {"#"}
    assert bar.startswith("#")
    assert longer.index("#") >= bar.rindex("#")


def _two_calls():
    return Recipe({"0": LayerRecipe(), "2": LayerRecipe()}), Tiny(), CHIP


def test_cards_share_a_kernel_and_the_plan_says_how():
    class Wide(Tiny):
        example_inputs = (torch.zeros(1, 4096),)

        def __init__(self):
            self.model = nn.Sequential(nn.Linear(4096, 8192)).eval()

        def calibration(self):
            return [(torch.zeros(1, 4096),)]

    shown = show_plan(Recipe({"0": LayerRecipe()}), Wide(), ChipTarget("ascend_910b2", batch=512, cards=8))
    assert "[tensor parallel]" in shown


def test_on_this_machine_kernels_are_timed_and_what_bounds_them_is_not_claimed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = CpuOpenvino(batch=4, kernel_repetitions=3, calibration_networks=1)
    recipe = Recipe({"0": LayerRecipe(quantize=Quantize()), "2": LayerRecipe()})
    plan = make_plan(recipe, Tiny(), target)
    kinds = [(it.call.owner, it.price.bound_by) for it in plan.calls]
    assert kinds == [("input_1", "memory"), ("0", ""), ("2", "")]
    table, timed = kernel_table(target), {it.call.kernel: it.latency_ms for it in plan.calls[1:]}
    assert table.missing(timed) == []
    # A kernel takes at least half as long in a network as alone (docs/decisions/0003).
    assert all(latency_ms >= 0.5e3 * table.seconds(kernel) > 0 for kernel, latency_ms in timed.items())
    assert "kernel times, fitted to" in show_plan(recipe, Tiny(), target)


def test_the_command_prints_the_recipe_or_with_a_target_its_plan(recipe, tmp_path, capsys):
    recipe.save(tmp_path / "r.yaml")
    path = f"recipe={tmp_path / 'r.yaml'}"
    run_show_job(check("show", [path]))
    assert "fallback" in capsys.readouterr().out
    run_show_job(check("show", [path, "target=ascend_910b2", *SMALL]))
    assert "bound by" in capsys.readouterr().out


@pytest.mark.parametrize(("alone", "key"), [(SMALL, "task"), (["target=ascend_910b2"], "target")])
def test_a_plan_needs_a_task_and_a_target(recipe, tmp_path, alone, key):
    recipe.save(tmp_path / "r.yaml")
    with pytest.raises(InputError, match=f"task and target must be given together, but {key} is alone"):
        check("show", [f"recipe={tmp_path / 'r.yaml'}", *alone])


def test_a_recipe_that_the_target_cannot_run_is_refused(recipe):
    layers = dict(recipe.layers) | {"experts.1.up": LayerRecipe(quantize=Quantize(4, 4))}
    with pytest.raises(InputError, match=r"experts\.1\.up asks for it"):
        make_plan(Recipe(layers), TASK, CHIP)
