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
    # Multiplications and additions are counted apart.
    float16, int8 = (2 * chip.matrix_cores * chip.macs_per_cycle(it) * chip.clock_hz for it in ("float16", "int8"))
    assert float16 == pytest.approx(1e12 * float16_teraflops, rel=0.01)
    assert int8 == pytest.approx(1e12 * int8_teraops, rel=0.015)


def test_an_unknown_chip_is_named_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown hardware tpu; known are ascend_310p3, .*nvidia_l4"):
        read_chip("tpu")


def test_a_precision_that_a_chip_lacks_is_named():
    with pytest.raises(InputError, match="nvidia_a100 has no matrix multiplication in float8"):
        read_chip("nvidia_a100").macs_per_cycle("float8")


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("matrix_cores", 0, "matrix_cores > 0` must hold, but it is 0"),
        ("matrix_cores", 1.5, "matrix_cores` must be a whole number, but is 1.5"),
        ("clock_hz", -1.0, "clock_hz >= 0` must hold, but it is -1"),
        ("clock_hz", float("nan"), "clock_hz` must be a number, as .* is, but is nan"),
        ("memory_bandwidth_bytes_per_s", float("inf"), "memory_bandwidth_bytes_per_s` must be a number, .* is inf"),
        ("link_bandwidth_bytes_per_s", -1.0, "link_bandwidth_bytes_per_s >= 0` must hold, but it is -1"),
        ("int8_macs_per_cycle", -1, "int8_macs_per_cycle >= 0` must hold, but it is -1"),
        ("load_piece_bytes", -1, "load_piece_bytes >= 0` must hold, but it is -1"),
        ("multiprocessors", "no", "multiprocessors` must be true or false, but is 'no'"),
        ("spills_accumulators", None, "spills_accumulators` must be true or false, but is None"),
        ("name", "../hare", r"name` must be a name of letters, digits, _, - and \., but is '\.\./hare'"),
        ("fit", {}, r"fit` must be a name of letters, digits, _, - and \., but is {}"),
        ("tiles", (), r"tiles` must be pairs of at least 16 rows and columns, but is \(\)"),
        ("tiles", (128, 256), r"tiles` must be pairs of at least 16 rows and columns, but is \(128, 256\)"),
        ("tiles", ((128,),), r"tiles` must be pairs of at least 16 rows and columns, but is \(\(128,\),\)"),
        ("split_k", (1, 0), r"split_k` must be whole numbers of at least 1, but is \(1, 0\)"),
        ("split_k", (), r"split_k` must be whole numbers of at least 1, but is \(\)"),
        ("precisions", (8, 8), r"precisions` must be a list of \[8, 8\], .*\[4, 16\], but is \[8, 8\]"),
        ("precisions", ((7, 9),), r"precisions` must be a list of .*, but is \[\[7, 9\]\]"),
        ("sparse_2_4", True, r"sparse_2_4` must be a list of float16, bfloat16, int8, int4, but is True"),
        ("sparse_2_4", ("w4a8",), r"sparse_2_4` must be a list of .*, but is \['w4a8'\]"),
        ("fusions", "mlp", "fusions` must be a list of matmul_dequant, matmul_swiglu_quant, mlp, but is mlp"),
        ("fusions", ("MLP",), r"fusions` must be a list of .*, but is \['MLP'\]"),
    ],
)
def test_impossible_values_are_named(key, value, rule):
    with pytest.raises(InputError, match=f"chip.{rule}"):
        replace(read_chip("ascend_910b2"), **{key: value})


def test_a_file_with_the_name_of_another_chip_is_refused(tmp_path):
    text = (FOLDER / "ascend_910b2.yaml").read_text()
    (tmp_path / "copy.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(text.replace("matrix_cores: 24", "matrix_cores: 12"))
    assert read_chip(str(tmp_path / "copy.yaml")) == read_chip("ascend_910b2")
    with pytest.raises(InputError, match="must give its chip a name of its own, but ascend_910b2 is another's"):
        read_chip(str(tmp_path / "other.yaml"))
