from types import SimpleNamespace

import pytest
from gulliver.search.finalists import MEASURED, Finalist, Measured
from gulliver.search.journal import Scores
from gulliver.search.report import finalist_table, front_table, write_recipes
from gulliver.search.study import Candidate
from gulliver.spaces.recipe import LayerRecipe, Quantize, Recipe
from gulliver.spaces.recipe_file import read_recipe

FLOAT, INT8 = Recipe({"layer": LayerRecipe()}), Recipe({"layer": LayerRecipe(quantize=Quantize())})


def result(*front, within=()):
    members = [SimpleNamespace(recipe=it) for it in front]
    return SimpleNamespace(front=members, best=members[0], fastest_within=dict.fromkeys(within, members[0]))


def test_a_front_that_has_become_shorter_leaves_no_recipe_of_the_longer_one(tmp_path):
    write_recipes(tmp_path, result(INT8, FLOAT, within=(0.005, 0.02)))
    write_recipes(tmp_path, result(FLOAT, within=(0.02,)))
    written = {it.name: read_recipe(it) for it in (tmp_path / "recipes").iterdir()}
    assert written == dict.fromkeys(("best.yaml", "front-00.yaml", "within-0.02.yaml"), FLOAT)


def test_the_front_is_told_recipe_by_recipe():
    members = [
        Candidate(3, INT8, Scores(0.91, latency_ms=0.5, size_bytes=72_400.0), 0.0, "exact solve"),
        Candidate(0, FLOAT, Scores(0.93, latency_ms=12.345, size_bytes=1_047_000.0), 0.0, "untouched"),
    ]
    title, columns, *rows = front_table(SimpleNamespace(front=members), "batch 1").splitlines()
    assert title == "the front as searched (batch 1)"
    assert columns.split() == ["recipe", "accuracy", *["modelled", "ms", "modelled", "KB"], "proposed", "by"]
    assert [row.split(maxsplit=4) for row in rows] == [
        [INT8.key[:8], "0.9100", "0.5000", "72", "exact solve"],
        [FLOAT.key[:8], "0.9300", "12.35", "1047", "untouched"],
    ]


@pytest.mark.parametrize(("best_ms", "said"), [(0.9, []), (1.0, ["bf16"]), (2.5, ["fp32", "bf16"])])
def test_originals_that_are_as_fast_as_the_best_recipe_are_named_below_the_table(best_ms, said):
    def measured(latency_ms):
        return Measured(0.9, 0.9, latency_ms, latency_ms, latency_ms, 1000, 0.0, 0.0)

    best = Finalist(INT8, best_ms, measured(best_ms), None, 0.0)
    originals = {"fp32": measured(2.0), "bf16": measured(1.0)}
    given = SimpleNamespace(
        how=MEASURED, originals=originals, baseline=originals["fp32"], finalists=[best], best=best, fastest_within={}
    )
    rows = finalist_table(given, "batch 1").splitlines()
    assert rows[5:] == [f"the best recipe is no faster than {label}" for label in said]
