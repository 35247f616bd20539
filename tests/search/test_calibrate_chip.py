"""A chip that nobody makes: one YAML describes it, one CSV of its times calibrates it."""

import csv
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
import yaml
from gulliver.evaluators.latency.chip import read_chip
from gulliver.evaluators.latency.chip_fit import fit_of, own_fit_path, published_kernels, read_fit
from gulliver.evaluators.latency.chip_model import price
from gulliver.evaluators.latency.chip_target import ChipTarget, price_kernels
from gulliver.evaluators.latency.published_kernel import COLUMNS
from gulliver.search import Budget, search
from gulliver.search.commands import run_calibrate_job
from gulliver.search.launch import check
from gulliver.search.sensitivity import SensitivitySettings
from gulliver.search.settings import FinalistSettings, TrialSettings
from gulliver.search.tracking import TrackingSettings
from gulliver.spaces.space import untouched
from gulliver.spaces.trace import trace
from gulliver.tasks.errors import InputError
from gulliver.tasks.moe_block import MoeBlock
from torch import nn

CHIP = files("gulliver.conf") / "chip" / "ascend_910b2.yaml"
FIT = files("gulliver.conf") / "chip_fit" / "ascend_910b.yaml"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def described(**values):
    """Return the YAML of a chip that differs in these values from the 910B2."""
    return yaml.safe_dump(yaml.safe_load(CHIP.read_text()) | {"name": "tortoise_1"} | values)


@pytest.fixture
def chip(tmp_path):
    """Return the file of a chip with half of the 910B2's cores, whose fit it borrows."""
    path = tmp_path / "tortoise.yaml"
    path.write_text(described(matrix_cores=12, vector_cores=24))
    return str(path)


def profile(path, chip, truth, hardware="Tortoise-1", count=40):
    """Write times as the truth's efficiencies give them, for the shapes that were published for the 910B2."""
    kernels = [replace(it, chip=chip) for it in published_kernels() if it.chip == "ascend_910b2"][:count]
    seconds = price(kernels, truth).seconds
    write(path, [row(hardware, kernel, time_s) for kernel, time_s in zip(kernels, seconds, strict=True)])
    return kernels


def row(hardware, kernel, time_s):
    ends = [sum(kernel.group_rows[: index + 1]) for index in range(len(kernel.group_rows))]
    shape = (kernel.operation, kernel.activation, kernel.weight, len(ends), kernel.m, kernel.n, kernel.k)
    rest = (str(ends) if len(ends) > 1 else "", kernel.notes, f"{1e6 * time_s:.4f}", "made up")
    return dict(zip(COLUMNS, (hardware, *shape, *rest), strict=True))


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def calibrate(*arguments):
    run_calibrate_job(check("calibrate", ["target=chip", "task=moe_block", *arguments]))


def test_few_times_of_a_known_chip_leave_its_stored_fit_where_they_say_nothing(tmp_path):
    stored, own = read_fit("ascend_910b"), tmp_path / "own.csv"
    kernels = [kernel for kernel in published_kernels() if kernel.chip == "ascend_910b2"]
    profile(own, "ascend_910b2", stored, "ascend_910b2", count=5)
    run_calibrate_job(check("calibrate", ["target=ascend_910b2", f"kernels={own}"]))
    # The times are those of the stored fit, which so explains them best.
    assert price(kernels, fit_of("ascend_910b2")).seconds == pytest.approx(price(kernels, stored).seconds, rel=0.01)


def test_a_chip_of_ones_own_is_calibrated_and_its_target_finds_the_fit(chip, tmp_path, capsys):
    truth = replace(read_fit("ascend_910b"), matrix_efficiency=0.6, launch_s=3e-5)
    kernels = profile(tmp_path / "own.csv", chip, truth)
    before = ChipTarget(chip)
    network = nn.Sequential(nn.Linear(4096, 4096), nn.Linear(4096, 4096))
    graph = trace(network, (torch.zeros(1, 4096),))
    calls = before.lower(graph, untouched(graph))
    expected_ms = 1e3 * sum(it.seconds for it in price_kernels(chip, [call.kernel for call in calls], fit=truth))
    off_before = abs(before.latency.total_ms(calls) / expected_ms - 1)

    calibrate(f"target.chip={chip}", f"kernels={tmp_path / 'own.csv'}")

    shown = capsys.readouterr()
    assert str(own_fit_path(chip)) in shown.out
    assert f"{len(kernels)} times, mean error" in shown.out
    assert not shown.err
    fit, target = fit_of(chip), ChipTarget(chip)
    assert (fit.rows, own_fit_path(chip).name) == (len(kernels), "tortoise_1.yaml")
    assert fit.mean_error < 0.05
    assert (target.name, target.conditions) == ("tortoise_1", "batch 32, 1 card, modelled (model, own calibration)")
    assert f"fitted to {len(kernels)} kernel times" in target.latency.basis
    assert abs(target.latency.total_ms(calls) / expected_ms - 1) < 0.15 < off_before
    with pytest.raises(InputError, match=r"target\.mode must be model where .*tortoise_1\.yaml prices the kernels"):
        ChipTarget(chip, mode="nearest")
    # Another chip's prices are as they were.
    assert fit_of("ascend_910b2") == read_fit("ascend_910b")


def test_a_fit_goes_to_the_file_that_is_named_and_is_used_where_the_target_names_it(chip, tmp_path):
    truth = replace(read_fit("ascend_910b"), launch_s=1e-4)
    profile(tmp_path / "own.csv", chip, truth)
    out = tmp_path / "fits" / "mine.yaml"
    calibrate(f"target.chip={chip}", f"kernels={tmp_path / 'own.csv'}", f"out={out}")
    assert not own_fit_path(chip).exists()
    assert fit_of(chip, str(out)).launch_s > 5e-5
    assert ChipTarget(chip, fit=str(out)).latency.basis != ChipTarget(chip).latency.basis
    assert out.read_text().startswith("# Fitted to 40 times of tortoise_1 in own.csv by `gulliver calibrate`;")


def test_a_known_chip_is_calibrated_by_its_name_and_other_rows_are_named(tmp_path, capsys):
    profile(tmp_path / "own.csv", "ascend_910b2", read_fit("ascend_910b"), "Ascend 910B2", 30)
    with (tmp_path / "own.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows += [rows[0] | it for it in ({"hardware": "nvidia_l4"}, {"hardware": "tpu"}, {"time_us": ""})]
    write(tmp_path / "own.csv", rows)
    run_calibrate_job(check("calibrate", ["target=ascend_910b2", f"kernels={tmp_path / 'own.csv'}"]))
    problems = capsys.readouterr().err.splitlines()
    reasons = ("is a time of nvidia_l4, not of ascend_910b2", "unknown hardware tpu", "has no time_us")
    for number, (problem, reason) in enumerate(zip(problems, reasons, strict=True), 32):
        assert f"own.csv, line {number}: {reason}" in problem
    assert fit_of("ascend_910b2").rows == 30


def test_a_chip_of_ones_own_is_among_those_that_a_misspelt_row_may_mean(chip, tmp_path, capsys):
    kernels = profile(tmp_path / "own.csv", chip, read_fit("ascend_910b"), count=5)
    write(tmp_path / "own.csv", [row("tortoise_1", kernels[0], 1e-5), row("tortoise_2", kernels[1], 1e-5)])
    calibrate(f"target.chip={chip}", f"kernels={tmp_path / 'own.csv'}")
    problem = capsys.readouterr().err
    assert "line 3: unknown hardware tortoise_2; known are ascend_310p3, " in problem
    assert problem.endswith("nvidia_l40s, tortoise_1\n")


def test_few_times_are_said_to_be_few(chip, tmp_path, capsys):
    profile(tmp_path / "own.csv", chip, read_fit("ascend_910b"), count=5)
    calibrate(f"target.chip={chip}", f"kernels={tmp_path / 'own.csv'}")
    assert "fewer than 24 times" in capsys.readouterr().out


def test_a_search_runs_on_it(chip, tmp_path):
    result = search(
        MoeBlock(width=64, hidden=32, samples=2),
        target=ChipTarget(chip, batch=2),
        budget=Budget(max_drop=0.5),
        trials=2,
        sensitivity=SensitivitySettings(method="gradient", samples=2, pairs=0),
        trial=TrialSettings(None),
        finalists=FinalistSettings(count=1, finetune=None),
        tracking=TrackingSettings(enabled=False),
        out=tmp_path / "run",
    )
    assert result.summary["target"] == "tortoise_1"
    assert result.how == "modelled"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clock_hz: [", "is not YAML"),
        ("name: tortoise", "must have `_target_: gulliver.evaluators.latency.chip.Chip`"),
        (CHIP.read_text() + "wings: 2\n", "must have the keys of a chip, but: .*wings"),
        (
            CHIP.read_text().replace("1.80e+9", "1.80e9"),
            "`chip.clock_hz` must be a number, as 1.8e.9 is, but is '1.80e9'",
        ),
        ("name: 2026-13-45", "is not YAML"),
        (described(fit="hare"), "no fit is stored under the name hare"),
        (described(int8_macs_per_cycle=0), "tortoise_1 has no matrix multiplication in int8"),
    ],
)
def test_a_file_that_is_no_chip_is_refused(tmp_path, text, message):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        check("calibrate", ["target=chip", f"target.chip={tmp_path / 'odd.yaml'}", "kernels=own.csv"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target=ascend_910b2"], "kernels must be given for ascend_910b2, which is not here"),
        (["target=cpu_openvino", "kernels=a.csv"], "kernels and out must not be given for cpu_openvino"),
        (["target=chip", "kernels=a.csv"], "target.chip must be of type str, but is None"),
        (["target=chip", "target.chip=nowhere.yaml", "kernels=a.csv"], "the chip nowhere.yaml cannot be read"),
        (["target=ascend_910b2", "target.fit=nowhere.yaml", "kernels=a.csv"], "nowhere.yaml must hold a fit"),
        (
            ["target=ascend_910b2", "kernels=a.csv", "out=./a.csv"],
            "out must be a YAML file other than kernels, but is a.csv",
        ),
        (["target=ascend_910b2", "kernels=a.csv", "out=."], r"out must be a YAML file other than kernels, but is \."),
        (["target=ascend_910b2", "kernels=a.csv", "out=3"], r"out must be given, as in out=FILE\.yaml"),
        (["target=ascend_910b2", "kernels=3"], r"kernels must be given, as in kernels=FILE\.csv"),
    ],
)
def test_impossible_calibrations_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        check("calibrate", arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"launch_s": "9e-6"}, "launch_s must be a number above 0, as 9.0e-6 is, but is '9e-6'"),
        ({"tile_s": -1e-7}, "tile_s must be a number above 0, .* is -1e-07"),
        ({"overlap": 0}, "overlap must be a number above 0, .* is 0"),
        ({"memory_efficiency": float("nan")}, "memory_efficiency must be a number above 0, .* is nan"),
        ({"launch_factor": {"gemm-int8": -1.0}}, "launch_factor of gemm-int8 must be a number above 0, .* is -1.0"),
        ({"launch_factor": 1.0}, "'float' object has no attribute 'items'"),
        ({"mean_error": "small"}, "mean_error must be a number .* is 'small'"),
    ],
)
def test_a_fit_whose_values_price_nothing_is_refused(tmp_path, values, message):
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(yaml.safe_load(FIT.read_text()) | values))
    with pytest.raises(
        InputError, match=f"odd.yaml must hold a fit, as `gulliver calibrate` writes it, but: {message}"
    ):
        ChipTarget("ascend_910b2", fit=str(tmp_path / "odd.yaml"))


def test_a_table_without_a_time_of_the_chip_is_refused(chip, tmp_path):
    profile(tmp_path / "own.csv", "ascend_910b2", read_fit("ascend_910b"), "ascend_910b2", 3)
    with pytest.raises(InputError, match="must have a row of tortoise_1 with its time_us, but has none"):
        calibrate(f"target.chip={chip}", f"kernels={tmp_path / 'own.csv'}")
    assert read_chip(chip).name == "tortoise_1"
