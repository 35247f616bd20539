import re
from dataclasses import replace
from importlib.resources import files

import pytest
import yaml
from gulliver.evaluators.latency.chip import chip_names, read_chip
from gulliver.evaluators.latency.chip_fit import read_fit
from gulliver.search.configuration import build_target
from gulliver.tasks.errors import InputError

FOLDER = files("gulliver.conf") / "chip"


@pytest.mark.parametrize("name", chip_names())
def test_the_file_makes_the_chip_of_its_name(name):
    chip = build_target(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()), "chip")
    assert chip.name == name
    assert chip == read_chip(name)


@pytest.mark.parametrize("name", chip_names())
def test_every_chip_has_a_fit(name):
    assert read_fit(read_chip(name).fit).rows >= 24


@pytest.mark.parametrize("name", chip_names())
def test_every_rate_names_its_source(name):
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        if re.search(r": [\d.\[]", line) and not line.startswith("#"):
            assert re.search(r"# \S+", line), line


@pytest.mark.parametrize(
    ("name", "float16_teraflops", "int8_teraops"),
    [
        ("ascend_910b1", 364, 728),
        ("ascend_910b2", 354, 708),
        ("ascend_910b3", 295, 590),
        ("ascend_910b4", 246, 492),
        ("ascend_310p3", 69.5, 139),
        ("ascend_950pr", 433, 865),
        ("nvidia_h200", 989, 1978),
        ("nvidia_a100", 312, 624),
        ("nvidia_l40s", 362, 733),
        ("nvidia_l4", 121, 242),
    ],
)
def test_peaks_are_those_that_the_makers_state(name, float16_teraflops, int8_teraops):
    chip = read_chip(name)
    float16 = 2 * chip.matrix_cores * chip.float16_macs_per_cycle * chip.clock_hz
    assert float16 == pytest.approx(1e12 * float16_teraflops, rel=0.01)
    assert chip.int8_operations_per_s == pytest.approx(1e12 * int8_teraops, rel=0.015)


def test_an_unknown_chip_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown hardware tpu; known are ascend_310p3, .*nvidia_l4"):
        read_chip("tpu")


def test_a_precision_that_a_chip_lacks_is_named():
    with pytest.raises(InputError, match="nvidia_a100 has no matrix multiplication in float8"):
        read_chip("nvidia_a100").macs_per_cycle("float8")


@pytest.mark.parametrize(("key", "value"), [("matrix_cores", 0), ("clock_hz", -1.0), ("tiles", ())])
def test_impossible_values_are_named(key, value):
    with pytest.raises(InputError, match=f"chip.{key}"):
        replace(read_chip("ascend_910b2"), **{key: value})
