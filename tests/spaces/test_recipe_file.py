import tempfile
from pathlib import Path

import pytest
import yaml
from gulliver.spaces.recipe import (
    CALIBRATORS,
    CRITERIA,
    WEIGHT_SCALES,
    Decompose,
    Finetune,
    FoundFor,
    LayerRecipe,
    Quantize,
    Recipe,
    Sparsify,
)
from gulliver.spaces.recipe_file import from_document, read_recipe, to_document, write_recipe
from gulliver.tasks import cache
from gulliver.tasks.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False)
choices = st.builds(
    LayerRecipe,
    st.none()
    | st.builds(
        Sparsify,
        st.floats(0, 1, exclude_max=True),
        criterion=st.sampled_from(CRITERIA),
        reconstruct=st.booleans(),
    ),
    st.none()
    | st.builds(Decompose, st.integers(1, 2**31 - 1), st.sampled_from(["svd", "channel_svd"]), data_aware=st.booleans())
    | st.builds(Decompose, st.integers(1, 2**31 - 1), st.just("tucker2"), st.none() | st.integers(1, 9)),
    st.none()
    | st.builds(
        Quantize,
        st.integers(2, 8),
        st.integers(4, 16),
        calibrator=st.sampled_from(CALIBRATORS),
        symmetric=st.booleans(),
        weight_scales=st.sampled_from(WEIGHT_SCALES),
        equalize=st.booleans(),
        correct_bias=st.booleans(),
        per_channel=st.booleans(),
    )
    | st.builds(Quantize, st.integers(2, 8), group_size=st.integers(1, 128), symmetric_weights=st.booleans()),
    st.none() | texts,
)
finetunes = st.builds(
    Finetune,
    st.integers(1, 10_000),
    st.floats(1e-6, 1e3),
    st.floats(1e-3, 100),
    quantization_aware=st.booleans(),
)
circumstances = st.builds(
    FoundFor,
    network=st.none() | texts,
    task=st.none() | texts,
    seed=st.none() | st.integers(),
    versions=st.dictionaries(texts, texts, max_size=3),
    settings=st.dictionaries(texts, texts | st.integers() | st.booleans() | numbers, max_size=3),
    predicted=st.dictionaries(texts, numbers, max_size=3),
    measured=st.dictionaries(texts, numbers, max_size=3),
)
recipes = st.builds(
    Recipe, st.dictionaries(texts, choices, min_size=1, max_size=4), st.none() | finetunes, circumstances
)


@given(recipes)
def test_what_is_written_is_read_back_exactly(recipe):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        recipe.save(path)
        twin = read_recipe(path)
        assert twin.layers == recipe.layers
        assert [choice.fallback for choice in twin.layers.values()] == [it.fallback for it in recipe.layers.values()]
        assert (twin.key, twin.finetune, twin.found_for) == (recipe.key, recipe.finetune, recipe.found_for)
        twin.save(Path(folder) / "again.yaml")
        assert (Path(folder) / "again.yaml").read_bytes() == path.read_bytes()


def test_the_file_is_sorted_versioned_and_short(tmp_path):
    layers = {
        "stem": LayerRecipe(fallback="the search chose bfloat16"),
        "body": LayerRecipe(Sparsify(0.5), Decompose(16), Quantize(4, 8)),
    }
    found_for = FoundFor(task="digits_cnn", versions={"torch": "2.13", "openvino": "2026.4"})
    Recipe(layers, Finetune(2, 0.05, 4.0), found_for).save(tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text() == (
        "gulliver_recipe: 1\n"
        "found_for:\n"
        "  task: digits_cnn\n"
        "  versions:\n"
        "    openvino: '2026.4'\n"
        "    torch: '2.13'\n"
        "finetune:\n"
        "  epochs: 2\n"
        "  learning_rate: 0.05\n"
        "  optimizer: muon\n"
        "  temperature: 4.0\n"
        "layers:\n"
        "  body:\n"
        "    decompose:\n"
        "      kind: svd\n"
        "      rank: 16\n"
        "    quantize:\n"
        "      activation_bits: 8\n"
        "      weight_bits: 4\n"
        "    sparsify:\n"
        "      kind: channel\n"
        "      ratio: 0.5\n"
        "  stem:\n"
        "    fallback: the search chose bfloat16\n"
    )


def test_a_file_from_before_there_was_a_choice_of_optimizers_is_of_gradient_descent(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("gulliver_recipe: 1\nlayers: {a: {}}\nfinetune: {epochs: 2}\n")
    assert read_recipe(path).finetune == Finetune(2, optimizer="sgd")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    write_recipe(Recipe({"a": LayerRecipe()}), path)
    before = path.read_bytes()

    def disk_full(self, text):
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_recipe(Recipe({"b": LayerRecipe()}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_rename_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    write_recipe(Recipe({"a": LayerRecipe()}), path)

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.Path, "replace", refuse)
    with pytest.raises(PermissionError):
        write_recipe(Recipe({"b": LayerRecipe()}), path)
    assert list(read_recipe(path).layers) == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def refusal(tmp_path, text):
    """Return the one line that says why the file is refused, without the file's name that it begins with."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"recipe {path}")
    return message.removeprefix(f"recipe {path}").removeprefix(": ").strip()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        read_recipe(tmp_path / "none.yaml")
    assert str(caught.value) == f"recipe {tmp_path / 'none.yaml'} cannot be read: No such file or directory"
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_recipe(tmp_path)


def test_a_file_without_end_is_refused_rather_than_read_until_memory_is_full():
    with pytest.raises(InputError, match=r"^recipe /dev/zero must have at most 16777216 characters, but it has more$"):
        read_recipe("/dev/zero")


@pytest.mark.parametrize(
    "text",
    [
        "layers: [",
        "a: b: c",
        "\tx: 1",
        b"\xff\xfe\x00",
        "a: \x07",
        "gulliver_recipe: 1\nlayers: {a: {fallback: 2020-99-99}}",
        "a: " + "9" * 5000,
        "a: 0x" + "f" * 5000,
        "[" * 5000,
    ],
)
def test_what_is_not_yaml_is_said_to_be_so(text, tmp_path):
    assert refusal(tmp_path, text).startswith("is not YAML: ")


@pytest.mark.parametrize(
    ("layers", "key"),
    [
        ("{a: {quantize: {weight_bits: 8}}, a: {}}", "'a'"),
        ("{a: {quantize: {weight_bits: 8, weight_bits: 4}}}", "'weight_bits'"),
        ("{1: {}, '1': {}}", "'1'"),
    ],
)
def test_a_key_that_is_given_again_is_refused_rather_than_forgotten(layers, key, tmp_path):
    message = refusal(tmp_path, f"gulliver_recipe: 1\nlayers: {layers}\n")
    assert message.startswith(f'is not YAML: found the key {key} again in "<unicode string>", line 2')


@pytest.mark.parametrize("value", ["!!bool maybe", "!!int ''", "!!float ''", "!!timestamp soon"])
def test_a_value_that_its_tag_does_not_allow_is_refused(value, tmp_path):
    message = refusal(tmp_path, f"gulliver_recipe: 1\nlayers: {{a: {value}}}\n")
    tag, text = value.replace("!!", "tag:yaml.org,2002:").replace("''", "").partition(" ")[::2]
    assert message.startswith(f"is not YAML: found '{text}', which is no {tag} in")


@pytest.mark.parametrize(
    "text",
    [
        "gulliver_recipe: 1\nlayers: &loop {a: *loop}",
        "a: &a [1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b]",
        "a: &a {x: 1}\nb: &b {<<: [*a, *a, *a, *a, *a, *a]}\nc: {<<: [*b, *b, *b, *b, *b, *b]}",
    ],
)
def test_a_file_is_refused_at_its_first_alias_as_few_of_them_may_stand_for_millions_of_values(text, tmp_path):
    message = refusal(tmp_path, text)
    assert message.startswith('is not YAML: found an alias, which recipes must not have in "<unicode string>", line 2')


@pytest.mark.parametrize(
    "tag", ["python/object/apply:os.system [exit 1]", "python/object:os.PathLike {}", "python/name:os.system ''"]
)
def test_a_tag_that_would_run_code_is_refused(tag, tmp_path):
    message = refusal(tmp_path, f"gulliver_recipe: 1\nlayers:\n  a: !!{tag}\n")
    assert message.startswith("is not YAML: could not determine a constructor for the tag")


KEY = "the key `gulliver_recipe` with the format's version must be present"
LAYERS = "`layers` must map every layer's name to its choice"
SLOTS = "sparsify, decompose, quantize, fallback"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", KEY),
        ("[]", KEY),
        ("layers: {a: {}}", KEY),
        ("gulliver_recipe: 2", "`gulliver_recipe` must be at most 1 for this Gulliver, but is 2"),
        ("gulliver_recipe: 0", "`gulliver_recipe` must be at most 1 for this Gulliver, but is 0"),
        ("gulliver_recipe: true", "`gulliver_recipe` must be at most 1 for this Gulliver, but is True"),
        ("gulliver_recipe: '1'", "`gulliver_recipe` must be at most 1 for this Gulliver, but is '1'"),
        ("gulliver_recipe: 1", LAYERS),
        ("gulliver_recipe: 1\nlayers: {}", LAYERS),
        ("gulliver_recipe: 1\nlayers: [a]", LAYERS),
        (
            "gulliver_recipe: 1\nlayer: {}",
            "the recipe has the unknown key 'layer'; known are gulliver_recipe, found_for, finetune, layers",
        ),
        (
            "gulliver_recipe: 1\nlayers: {conv1: {prune: {ratio: 0.5}}}",
            f"conv1 has the unknown key 'prune'; known are {SLOTS}",
        ),
        ("gulliver_recipe: 1\nlayers: {conv1: int8}", f"conv1 must map {SLOTS} to values, but is 'int8'"),
        (
            "gulliver_recipe: 1\nlayers: {conv1: {quantize: {bits: 8}}}",
            "conv1.quantize has the unknown key 'bits'; known are weight_bits, activation_bits",
        ),
        (
            "gulliver_recipe: 1\nlayers: {conv1: {quantize: 8}}",
            "conv1.quantize must map weight_bits, activation_bits, calibrator, ",
        ),
        ("gulliver_recipe: 1\nlayers: {conv1: {sparsify: {}}}", "conv1.sparsify must have the keys ratio, kind"),
        (
            "gulliver_recipe: 1\nlayers: {conv1: {sparsify: {ratio: 1.2}}}",
            "`0 <= ratio < 1` must hold, but conv1 has ratio=1.2",
        ),
        (
            "gulliver_recipe: 1\nlayers: {conv1: {sparsify: {ratio: .nan}}}",
            "`0 <= ratio < 1` must hold, but conv1 has ratio=nan",
        ),
        (
            "gulliver_recipe: 1\nlayers: {conv1: {fallback: [a]}}",
            "`fallback` must be a reason in words, but conv1 has fallback=['a']",
        ),
        ("gulliver_recipe: 1\nlayers: {a: {}}\nfinetune: {}", "finetune must have the keys epochs, learning_rate, "),
        ("gulliver_recipe: 1\nlayers: {a: {}}\nfinetune: 0", "finetune must map epochs, learning_rate, temperature, "),
        (
            "gulliver_recipe: 1\nlayers: {a: {}}\nfinetune: {epochs: many}",
            "`1 <= epochs <= 10000` must hold, whole, but finetune has epochs='many'",
        ),
        ("gulliver_recipe: 1\nlayers: {a: {}}\nfound_for: [1]", "found_for must map network, task, "),
        (
            "gulliver_recipe: 1\nlayers: {a: {}}\nfound_for: {seed: one}",
            "found_for.seed must be of type int, but is 'one'",
        ),
        (
            "gulliver_recipe: 1\nlayers: {a: {}}\nfound_for: {versions: '2.13'}",
            "found_for.versions must be of type dict, but is '2.13'",
        ),
        ("gulliver_recipe: 1\nlayers: {a: {}}\nfound_for: {chip: x}", "found_for has the unknown key 'chip'; known"),
        (
            "gulliver_recipe: 1\nlayers: {a: {}}\nfinetune: {epochs: 1, learning_rate: 1" + "0" * 400 + "}",
            "`0 < learning_rate < inf` must hold, but finetune has learning_rate=a number of 1329 bits",
        ),
        (
            f"gulliver_recipe: 1\nlayers: {{a: {list(range(1000))}}}",
            f"a must map {SLOTS} to values, but is [0, 1, 2, 3, 4, 5, ...]",
        ),
        (
            "gulliver_recipe: 1\nlayers: {a: {fallback: [[[[[1]]]]]}}",
            "`fallback` must be a reason in words, but a has fallback=[[...]]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_with_layer_and_rule(text, message, tmp_path):
    assert refusal(tmp_path, text).startswith(message)


def test_an_entry_that_is_left_empty_is_a_layer_left_alone():
    recipe = from_document(yaml.safe_load("gulliver_recipe: 1\nlayers: {a: , b: {quantize: }, 3: {quantize: {}}}"))
    assert dict(recipe.layers) == {
        "a": LayerRecipe(),
        "b": LayerRecipe(),
        "3": LayerRecipe(quantize=Quantize(8, 8)),
    }


def test_a_document_holds_no_empty_entry():
    recipe = Recipe({"a": LayerRecipe()}, found_for=FoundFor(seed=0))
    assert to_document(recipe) == {"gulliver_recipe": 1, "found_for": {"seed": 0}, "layers": {"a": {}}}
