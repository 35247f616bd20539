import csv
import subprocess
import sys
from pathlib import Path

import pytest
from gulliver.evaluators.latency.chip_fit import PUBLISHED
from gulliver.evaluators.latency.prediction_error import prediction_error

GULLIVER = Path(sys.executable).with_name("gulliver")


def predict(folder, *arguments):
    return subprocess.run(
        [GULLIVER, "predict", *arguments], capture_output=True, text=True, check=False, cwd=folder, timeout=120
    )


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["model", "nearest"])
def test_the_published_table_end_to_end(tmp_path, mode):
    result = predict(tmp_path, f"kernels={PUBLISHED}", "out=sub/predicted.csv", f"mode={mode}")
    assert result.returncode == 0, result.stderr
    before, after = read(Path(str(PUBLISHED))), read(tmp_path / "sub" / "predicted.csv")
    assert [{key: row[key] for key in before[0]} for row in after] == before
    assert list(after[0])[-3:] == ["predicted_us", "bound_by", "mode"]
    assert sum(row["predicted_us"] != "" for row in after) == 198
    assert {row["mode"] for row in after} - {""} == {mode}
    assert (tmp_path / "sub" / "predicted.png").read_bytes().startswith(b"\x89PNG")
    assert "line 191: unknown hardware nvidia_h800" in result.stderr
    assert len(result.stderr.splitlines()) == 6
    for word in ("rank correlation", "ascend950pr", "moe_ffn_2gemm_swiglu", "198 of 204 rows predicted", "held out"):
        assert word in result.stdout


def test_bad_rows_are_named_and_the_rest_goes_on(tmp_path):
    lines = PUBLISHED.read_text().splitlines()
    good = lines[20]
    bad = [good.replace(",1024,", ",many,"), good.replace("ascend910b2", "tpu"), good.replace("int8", "int7"), "a,b"]
    odd = good.replace("quant_matmul", "conv2d")
    (tmp_path / "kernels.csv").write_text("\n".join([lines[0], *bad, odd, good, good + ",more"]) + "\n")
    result = predict(tmp_path, "kernels=kernels.csv", "out=out.csv")
    assert result.returncode == 0
    problems = [line.split("kernels.csv, ")[1] for line in result.stderr.splitlines()]
    assert [problem.split(":")[0] for problem in problems] == [f"line {number}" for number in (2, 3, 4, 5, 6, 8)]
    assert "m must be a whole number of at least 1, but is many" in problems[0]
    assert "op conv2d is not modelled" in problems[4]
    assert [row["predicted_us"] != "" for row in read(tmp_path / "out.csv")] == [False] * 5 + [True, False]
    assert read(tmp_path / "out.csv")[0]["m"] == "many"


def test_without_times_there_is_nothing_to_compare(tmp_path):
    header, row = PUBLISHED.read_text().splitlines()[:21:20]
    (tmp_path / "kernels.csv").write_text(f"{header},own\n{row.replace(',71.28,', ',,')},kept\n")
    result = predict(tmp_path, "kernels=kernels.csv", "out=out.csv")
    assert (result.returncode, result.stderr) == (0, "")
    assert read(tmp_path / "out.csv")[0]["own"] == "kept"
    assert float(read(tmp_path / "out.csv")[0]["predicted_us"]) > 0
    assert "rank" not in result.stdout
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "kernels=kernels.csv cannot be read as a table"),
        ("", "kernels=kernels.csv must have a header, but is empty"),
        ("hardware,op\n", "kernels=kernels.csv must have the columns activation_dtype, weight_dtype, groups, m"),
        (
            PUBLISHED.read_text().replace(",", ";"),
            "group_list, time_us, but its header is hardware;op;activation_dtype;weight_dtype;groups;m;n;k;",
        ),
        (PUBLISHED.read_text().splitlines()[0] + "\n", "must have a row under its header"),
        (b"\xff\xfe\x00", "cannot be read as a table"),
    ],
)
def test_a_table_that_is_none_is_one_line_and_exit_status_2(tmp_path, text, message):
    if text is not None:
        (tmp_path / "kernels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    result = predict(tmp_path, "kernels=kernels.csv", "out=out.csv")
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_an_out_that_cannot_be_written_is_one_line_and_exit_status_2(tmp_path):
    (tmp_path / "file").touch()
    result = predict(tmp_path, f"kernels={PUBLISHED}", "out=file/out.csv")
    assert result.returncode == 2
    assert "out=file/out.csv cannot be written" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=out.csv"], "kernels must be given, as in kernels=FILE.csv"),
        (["kernels=a.csv"], "out must be given, as in out=FILE.csv"),
        (["kernels=a.csv", "out=b.csv", "mode=guess"], "mode must be one of model, nearest, but is guess"),
        (["kernels=a.csv", "out=./a.csv"], "out must be a CSV file other than kernels"),
        (["kernels=a.csv", "out=."], "out must be a CSV file"),
        (["kernels=a.csv", "uot=b.csv"], "unknown key uot"),
    ],
)
def test_bad_settings_are_one_line_and_exit_status_2(tmp_path, arguments, message):
    result = predict(tmp_path, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_errors_by_hand():
    error = prediction_error([11.0, 18.0, 30.0, 20.0], [10.0, 20.0, 30.0, 40.0])
    assert (error.count, error.worst) == (4, 0.5)
    assert error.mean == pytest.approx(0.175)
    assert error.median == pytest.approx(0.1)
    # Ranks 1, 2, 4, 3 against 1, 2, 3, 4: 1 - 6 * 2 / (4 * 15).
    assert error.rank_correlation == pytest.approx(0.8)


@pytest.mark.parametrize("measured", [[1.0, 2.0], [5.0, 5.0, 5.0]])
def test_ranks_of_too_few_or_equal_times_are_none(measured):
    assert prediction_error([1.0] * len(measured), measured).rank_correlation is None
