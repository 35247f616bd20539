import pytest
import torch
from gulliver.tasks.calibration import calibrated_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_is_that_by_which_labels_were_drawn(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    assert calibrated_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_a_classifier_that_is_always_right_may_be_as_sure_as_can_be_told():
    logits = torch.eye(4)
    assert calibrated_temperature(logits, torch.arange(4)) == pytest.approx(torch.tensor(-3.0).exp().item())
