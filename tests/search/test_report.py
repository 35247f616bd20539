from types import SimpleNamespace

from gulliver.search.report import write_recipes
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
