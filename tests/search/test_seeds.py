import json

import numpy as np
import pytest
from gulliver.search.finalists import Finalist, Measured
from gulliver.search.journal import Scores
from gulliver.search.result import Result
from gulliver.search.seeds import Quartiles, band, best_result, outcome, quartiles, search_seeds, seed_table
from gulliver.search.study import Candidate


def measured(accuracy_test, latency_ms):
    return Measured(accuracy_test, accuracy_test, latency_ms, latency_ms, latency_ms, 1000)


def result(seed, latency_ms, bf16_ms=4.0, accuracy_test=0.9, within_budget=True, out=None):
    members = [Candidate(0, None, Scores(0.80 + 0.01 * seed, 1.0, 1.0), 0.0, "test")]
    members += [Candidate(1, None, Scores(0.90 + 0.01 * seed, 3.0, 1.0), 0.0, "test")]
    best = Finalist(None, latency_ms, measured(accuracy_test, latency_ms), None, True)
    summary = {"task": "t", "target": "u", "conditions": "batch 1", "seed": seed, "hypervolume": 0.1 * seed}
    originals = {"OpenVINO fp32": measured(0.92, 8.0), "OpenVINO bf16": measured(0.92, bf16_ms)}
    return Result(
        out, tuple(members), (best,), best, {}, within_budget, (), (), originals, originals["OpenVINO bf16"], summary
    )


def test_the_quartiles_are_those_of_five_seeds():
    found = quartiles([outcome(result(seed, latency_ms)) for seed, latency_ms in enumerate([5.0, 1.0, 2.0, 4.0, 3.0])])
    assert found["latency_ms"] == Quartiles(2.0, 3.0, 4.0)
    assert found["drop_test"].median == pytest.approx(0.02)
    assert vars(found["hypervolume"]) == pytest.approx({"low": 0.1, "median": 0.2, "high": 0.3})


def test_the_best_seed_is_the_fastest_beside_its_own_original_within_the_budget():
    slow_moment = result(0, 3.0, bf16_ms=9.0)
    fast_moment = result(1, 2.0, bf16_ms=4.0)
    beyond = result(2, 1.0, bf16_ms=9.0, within_budget=False)
    assert best_result([fast_moment, slow_moment, beyond]) is slow_moment


def test_the_band_holds_the_quartiles_of_the_accuracy_reached_within_each_latency():
    fronts = [[(1.0, 0.5), (3.0, 0.9)], [(2.0, 0.6), (4.0, 0.8)], [(1.0, 0.7)]]
    latencies, (low, median, high) = band(fronts)
    assert (latencies[0], latencies[-1]) == (2.0, 4.0)
    assert (low[0], median[0], high[0]) == pytest.approx((0.55, 0.6, 0.65))
    assert (low[-1], median[-1], high[-1]) == pytest.approx((0.75, 0.8, 0.85))
    assert np.all(np.diff(median) >= 0)


def test_every_seed_is_searched_in_a_folder_of_its_own_and_recorded(tmp_path):
    asked = []

    def search(seed, out):
        asked.append((seed, out.name))
        return result(seed, 5.0 - seed, out=out)

    search_seeds(search, (1, 2, 3), tmp_path)
    assert asked == [(1, "seed-1"), (2, "seed-2"), (3, "seed-3")]
    record = json.loads((tmp_path / "seeds.json").read_text())
    assert record["seeds"] == [it["seed"] for it in record["runs"]] == [1, 2, 3]
    assert record["quartiles"]["latency_ms"] == {"low": 2.5, "median": 3.0, "high": 3.5}
    assert record["best"] == str(tmp_path / "seed-3" / "recipes" / "best.yaml")
    assert (tmp_path / "front_seeds.png").stat().st_size > 0


def test_the_table_has_a_line_for_each_seed_and_quartile():
    lines = seed_table([outcome(result(seed, 2.0 + seed)) for seed in range(3)]).splitlines()
    assert [line.split()[0] for line in lines] == ["seed", "0", "1", "2", "quartile", "median", "quartile"]
    assert lines[5].split()[1:] == ["3.0000", "1.3333", "0.0200", "0.1000"]
