import pytest
import torch
from gulliver.evaluators.latency.chip_target import ChipTarget
from gulliver.evaluators.latency.cpu_openvino import CpuOpenvino
from gulliver.search.launch import check
from gulliver.search.show_space import show_space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.errors import InputError
from torch import nn

RANK = 8


class Convolutions:
    """Three convolutions; what the second one's split would cut off is noise beyond eight equal singular values."""

    name, example_inputs = "convolutions", (torch.zeros(1, 3, 8, 8),)

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            *(nn.Conv2d(*widths, 3, padding=1) for widths in ((3, 64), (64, 64), (64, 5)))
        ).eval()
        left, right = (torch.linalg.qr(torch.randn(192, RANK))[0] for _ in range(2))
        unfolded = left @ right.T + 1e-4 * torch.randn(192, 192)
        self.model[1].weight.data = unfolded.reshape(64, 3, 64, 3).permute(0, 2, 3, 1).contiguous()

    def calibration(self):
        return [self.example_inputs]


@pytest.fixture(scope="module")
def task():
    return Convolutions()


def cells_of(text, layer):
    (line,) = [it for it in text.splitlines() if it.startswith(f"{layer} ")]
    return [it.strip() for it in line.split("  ") if it]


def test_a_line_says_what_may_become_of_a_layer_and_which_ranks_its_weights_suggest(task):
    text = show_space(task, CpuOpenvino(), SpaceOptions())
    assert text.startswith("convolutions on cpu_openvino: 3 layers, ")
    # A split saves something below 64 * 64 * 9 / (64 * 3 + 3 * 64) = 96; of that 67% and 33%, in multiples of 16.
    assert cells_of(text, "1") == ["1", "conv2d", "36,864", "w8a8", "64 to 16", "-", "64, 32", "8", "8"]
    # Below 5 * 64 * 9 / (64 * 3 + 3 * 5) = 13.9 there is one multiple of 8.
    assert cells_of(text, "2")[4:7] == ["5", "-", "8"]


def test_weights_in_fours_are_shown_where_the_target_skips_their_zeros(task):
    text = show_space(task, ChipTarget("ascend_910b2"), SpaceOptions())
    assert [cells_of(text, name)[5] for name in ("0", "1", "2")] == ["-", "2:4", "2:4"]
    assert "0: 2:4 is not offered, because input channels must come in fours, but it reads 3" in text


def test_what_is_not_offered_is_said_with_the_reason(task):
    text = show_space(task, CpuOpenvino(), SpaceOptions(keep_float=("1",), ranks=()))
    assert cells_of(text, "1") == ["1", "conv2d", "36,864", "-", "64 to 16", "-", "-", "-", "-"]
    assert text.splitlines()[-1] == "2: channels are not removed, because its channels are the network's outputs"


def test_without_a_recipe_the_space_is_shown_and_without_a_task_a_recipe_is_asked_for():
    job = check("show", ["task=digits_cnn", "target=cpu_openvino", "space.max_ratio=0.5"])
    assert (job.recipe, job.space) == (None, SpaceOptions(max_ratio=0.5))
    with pytest.raises(InputError, match=r"^recipe must be given, as in recipe=FILE$"):
        check("show", [])
