import pytest
import yaml
from gulliver.search.launch import check, compose, expand, launch
from gulliver.spaces.recipe import LayerRecipe, Recipe
from gulliver.tasks.errors import InputError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tirals=3"], "unknown key tirals; known keys are task, target, space, sensitivity, sampler"),
        (["+typo.key=3"], "unknown key typo; known keys are task, target"),
        (
            ["target=ascend_910b2", "target.threads=2"],
            "unknown key target.threads; known keys are chip, batch, cards, mode",
        ),
        (["budget.max_dorp=0.1"], "unknown key budget.max_dorp; known keys are max_drop, max_latency_ms"),
        (["+budget.max_dorp=0.1"], "unknown key budget.max_dorp; known keys are max_drop, max_latency_ms"),
        (["task=imagenet"], "Could not find 'task/imagenet' Available options in 'task': digits_cnn fashion_resnet"),
        (["target=tpu"], "Could not find 'target/tpu' Available options in 'target': ascend_310p3"),
        (["sampler=annealing"], "Available options in 'sampler': nsga2 random solve tpe"),
        (["trials=many"], "search.trials must be of type int, but is 'many'"),
        (["budget.max_drop=-1"], "`0 <= budget.max_drop < inf` must hold, but it is -1"),
        (["budget.max_latency_ms=0"], "`budget.max_latency_ms > 0` must hold, but it is 0"),
        (["target.batch=0"], "`target.batch >= 1` must hold, but it is 0"),
        (["task.epochs=0"], "epochs: must be a whole number from 1 to 1000, got 0"),
        (["out=[1]"], "out must be a folder"),
        (["seeds=0"], "`1 <= seeds <= 2**31 - seed` must hold, but it is 0"),
        (["seeds=many"], "`1 <= seeds <= 2**31 - seed` must hold, but it is many"),
        (["trial.race.confidence=1"], "`0 < trial.race.confidence < 1` must hold, but it is 1.0"),
        (["trial.race.first_slice=0"], "`trial.race.first_slice >= 1` must hold, but it is 0"),
        (["trials=[1"], "trials=[1 is not an override in Hydra's grammar: no viable alternative at input '[1'"),
        (["again=maybe"], "again must be true or false, but is 'maybe'"),
        (["budget.max_drop=1" + "0" * 400], "budget.max_drop must be a floating-point number, but has 401 digits"),
        (["task=0"], "task=0 is nothing that Hydra can read: Config group override must be a string or a list"),
        (["task=[1]"], "task=[1] is nothing that Hydra can read: argument of type 'int' is not iterable"),
        (["seed=" + "1" * 5000], "is nothing that Hydra can read: Exceeds the limit"),
    ],
)
def test_a_mistake_in_a_search_is_one_line_that_names_the_key_and_the_choices(overrides, message):
    with pytest.raises(InputError) as caught:
        check("search", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "key"),
    [("search", "seed"), ("solve", "steps"), ("apply", "task"), ("calibrate", "again"), ("predict", "mode")],
)
def test_a_key_that_is_taken_out_is_named(command, key):
    with pytest.raises(InputError, match=f"^the configuration must have a value for {key}$"):
        check(command, [f"~{key}"])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (b"- task\n", " must be a group of keys, but is ['task']"),
        (b"task: \xff\n", " is not YAML: 'utf-8' codec can't decode byte 0xff"),
        (b"trials: 4\n", ": the configuration must have a value for task"),
    ],
)
def test_a_search_is_not_solved_again_where_what_it_was_launched_with_cannot_be_read(tmp_path, written, message):
    config = tmp_path / "config.yaml"
    config.write_bytes(written)
    with pytest.raises(InputError) as caught:
        check("solve", [f"run={tmp_path}"])
    assert str(caught.value).startswith(f"{config}{message}")


@pytest.mark.parametrize("steps", ["1", "1001", "1000000", "2.5", "true"])
def test_a_ladder_of_too_few_steps_or_too_many_is_refused(tmp_path, steps):
    config = compose("search", ["task=digits_cnn", "target=ascend_910b2"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert check("solve", [f"run={tmp_path}", "steps=1000"]).steps == 1000
    with pytest.raises(InputError, match=rf"^`2 <= steps <= 1000` must hold, whole, but it is {steps.capitalize()}$"):
        check("solve", [f"run={tmp_path}", f"steps={steps}"])


@pytest.mark.parametrize("command", ["apply", "show"])
def test_a_recipe_must_be_given(command):
    with pytest.raises(InputError, match="recipe must be given, as in recipe=FILE"):
        check(command, [])


def test_a_format_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    Recipe({"0": LayerRecipe()}).save(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match=r"^formats must be a list of openvino or onnx, but is \['tflite'\]$"):
        check("apply", [f"recipe={tmp_path / 'recipe.yaml'}", "formats=[tflite]"])
    assert check("apply", [f"recipe={tmp_path / 'recipe.yaml'}", "formats=[openvino,onnx]"]).formats[1] == "onnx"


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"recipe nowhere\.yaml cannot be read: No such file"):
        check("show", ["recipe=nowhere.yaml"])


def test_a_sweep_is_expanded_to_all_combinations():
    jobs = list(expand(["task=a,b", "seed=1,2", "trials=4"], sweep=True))
    assert jobs == [
        ["task=a", "seed=1", "trials=4"],
        ["task=a", "seed=2", "trials=4"],
        ["task=b", "seed=1", "trials=4"],
        ["task=b", "seed=2", "trials=4"],
    ]


@pytest.fixture
def launched(monkeypatch):
    """What Hydra would be given to run."""
    given = []
    monkeypatch.setattr("gulliver.search.launch._launch_hydra", lambda *them: given.append(them))
    return given


def test_jobs_of_a_sweep_that_would_write_to_one_folder_are_refused_before_one_runs(launched):
    message = r"^jobs of a sweep must differ in `out`, but seed=1 and seed=2 have out=here$"
    with pytest.raises(InputError, match=message):
        launch("search", ["-m", "seed=1,2", "trials=4", "out=here"])
    assert not launched


@pytest.mark.parametrize("more", ["seed=1,1", "trials=4,8"])
def test_jobs_of_a_sweep_may_share_a_folder_where_the_second_goes_on_with_the_first(launched, more):
    launch("search", ["-m", more, "out=here"])
    assert launched == [("search", ["-m", more, "out=here"])]


@pytest.mark.parametrize("override", ["task=glob(*)", "seed=interval(1,5)"])
def test_a_sweep_that_lists_no_choices_is_refused(override):
    with pytest.raises(InputError) as caught:
        list(expand([override], sweep=True))
    assert str(caught.value) == f"a sweep must list its choices, as in seed=1,2, but is {override}"


@pytest.mark.parametrize(
    "group", ["sampler=nsga2", "sampler=random", "sampler=tpe", "tracking=none", "task=digits_cnn"]
)
def test_every_option_builds(group):
    check("search", [group])


def test_the_run_directory_is_named_for_the_settings():
    first, second = (check("search", [f"seed={seed}"]).out for seed in (1, 2))
    assert first != second
    assert check("search", ["seed=1", "trials=99"]).out == first


def test_a_search_is_repeated_with_the_next_seeds_in_a_folder_that_more_seeds_go_on_with():
    job = check("search", ["seed=3", "seeds=2"])
    assert job.seeds == (3, 4)
    assert job.out == check("search", ["seed=3", "seeds=4"]).out != check("search", ["seed=3"]).out


def test_racing_can_be_turned_off():
    assert check("search", ["trial.race=null"]).settings.trial.race is None


def test_the_yaml_holds_the_defaults_of_the_constructors():
    from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
    from gulliver.search.samplers import Nsga2, Solve
    from gulliver.search.settings import Budget, FinalistSettings, SearchSettings, TrialSettings
    from gulliver.spaces.space_options import SpaceOptions

    job = check("search", [])
    assert job.target == CpuOpenvino()
    assert job.settings == SearchSettings(
        sampler=Solve(), budget=Budget(), space=SpaceOptions(), trial=TrialSettings(), finalists=FinalistSettings()
    )
    assert check("search", ["sampler=nsga2"]).settings.sampler == Nsga2()


def test_overrides_reach_the_configuration():
    assert compose("search", ["budget.max_drop=0.02"])["budget"]["max_drop"] == 0.02


def test_a_task_of_ones_own_is_found_in_a_folder_of_ones_own(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("_target_: gulliver.tasks.digits_cnn.DigitsCNN\nseed: 3\n")
    job = check("search", [f"hydra.searchpath=[file://{tmp_path}]", "task=mine"])
    assert job.task.settings.seed == 3


def test_an_unknown_key_of_a_task_of_ones_own_is_named_with_the_known_ones(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text("_target_: gulliver.tasks.digits_cnn.DigitsCNN\nseed: 3\n")
    with pytest.raises(InputError, match=r"^unknown key task\.sede; known keys are seed$"):
        check("search", [f"hydra.searchpath=[file://{tmp_path}]", "task=mine", "task.sede=4"])
