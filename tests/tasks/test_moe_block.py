import pytest
import torch
from gulliver.tasks.errors import InputError
from gulliver.tasks.moe_block import MoeBlock
from gulliver.tasks.protocol import DistillingTask, MetricTask, ScoredTask, TrainingTask
from torch import nn
from torch.nn import functional as F


@pytest.fixture(scope="module")
def task():
    return MoeBlock(width=64, hidden=32, samples=4)


def test_it_satisfies_the_protocols(task):
    assert isinstance(task, ScoredTask)
    assert isinstance(task, DistillingTask)
    assert task.class_dimension is None
    assert not isinstance(task, MetricTask | TrainingTask)
    assert not task.model.training


def test_every_expert_multiplies_its_own_tokens(task):
    (tokens,) = task.calibration()[0]
    ends = torch.tensor([16, 12, 10, 8, 8, 5, 3, 2]).cumsum(0)
    results = task.model(tokens) - tokens
    for expert, last, rows in zip(task.model.experts, ends, (16, 12, 10, 8, 8, 5, 3, 2), strict=True):
        mine = tokens[:, last - rows : last]
        wanted = (F.silu(mine @ expert.gate.weight.T) * (mine @ expert.up.weight.T)) @ expert.down.weight.T
        torch.testing.assert_close(results[:, last - rows : last], wanted, rtol=1e-4, atol=1e-4)


def test_the_block_itself_scores_1_and_one_without_experts_scores_0(task):
    assert task.scores(task.model, "search", 0, 4).tolist() == [1.0] * 4
    assert task.scores(nn.Identity(), "test", 1, 3).tolist() == pytest.approx([0.0] * 2, abs=1e-6)


def test_weights_have_unit_gain_heavy_tails_and_unequal_channels():
    weight = MoeBlock(width=1024, hidden=512).model.experts[0].gate.weight
    channels = weight.square().mean(1).sqrt() * 1024**0.5
    assert channels.log().mean() == pytest.approx(0.0, abs=0.05)
    assert channels.log().std() == pytest.approx(0.25, abs=0.05)
    normalized = weight / weight.square().mean(1, keepdim=True).sqrt()
    # 3 for a normal distribution; Student's t of 5 degrees has 9, and its sample rarely reaches it.
    assert normalized.pow(4).mean() > 4


def test_seeds_and_splits_differ_and_repeat():
    first, again, other = MoeBlock(16, 8, 2), MoeBlock(16, 8, 2), MoeBlock(16, 8, 2, seed=1)
    assert torch.equal(first.model.experts[3].up.weight, again.model.experts[3].up.weight)
    assert not torch.equal(first.model.experts[3].up.weight, other.model.experts[3].up.weight)
    scores = [first.scores(other.model, split, 0, 2) for split in ("search", "test")]
    assert not torch.equal(*scores)
    assert torch.equal(first.calibration()[0][0], again.calibration()[0][0])


@pytest.mark.parametrize("key", ["width", "hidden", "samples"])
def test_impossible_sizes_are_named(key):
    with pytest.raises(InputError, match=f"`task.{key} >= 1` must hold, but it is 0"):
        MoeBlock(**{key: 0})
