import math

import pytest
import torch
from gulliver.evaluators.divergence import kl_divergence, mean_divergence, squared_error
from torch import nn


def logits(*probabilities):
    return torch.tensor(probabilities).log()


def test_the_divergence_of_two_classes_is_that_of_kullback_and_leibler():
    wanted, given = logits([0.5, 0.5], [0.9, 0.1]), logits([0.25, 0.75], [0.9, 0.1])
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75), and nothing where both are equal.
    first = 0.5 * math.log(2.0) + 0.5 * math.log(2 / 3)
    assert kl_divergence(wanted, given).tolist() == pytest.approx([first, 0.0], abs=1e-7)
    # The other way round it is another number: the reference's probabilities are the weights.
    assert kl_divergence(given, wanted)[0].item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_a_constant_added_to_all_logits_of_a_sample_diverges_by_nothing():
    random = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(random, random + 7.0).abs().max() < 1e-6


def test_several_distributions_of_a_sample_count_by_their_mean():
    wanted, given = logits([0.5, 0.5], [0.9, 0.1]), logits([0.25, 0.75], [0.4, 0.6])
    apart = kl_divergence(wanted, given)
    assert kl_divergence(wanted[None], given[None]).tolist() == pytest.approx([apart.mean().item()])


def test_classes_that_are_all_but_impossible_give_finite_numbers():
    wanted, given = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])
    assert kl_divergence(wanted, given).tolist() == [400.0]


def test_the_squared_error_is_relative_to_the_variance_of_the_reference():
    # Mean 2 and variance ((-2)^2 + 0 + 0 + 2^2) / 4 = 2; squared errors (1 + 0) / 2 and (0 + 9) / 2.
    reference, outputs = torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.tensor([[1.0, 2.0], [2.0, 7.0]])
    assert squared_error(reference, outputs).tolist() == [0.25, 2.25]
    assert squared_error(10 * reference + 3, 10 * outputs + 3).tolist() == pytest.approx([0.25, 2.25])


def test_a_single_number_has_no_variance_to_divide_by():
    assert squared_error(torch.tensor([[3.0]]), torch.tensor([[3.0]])).tolist() == [0.0]
    assert squared_error(torch.tensor([[3.0]]), torch.tensor([[4.0]])).item() == pytest.approx(1e12)


@pytest.mark.parametrize("divergence", [kl_divergence, squared_error])
def test_equal_outputs_do_not_diverge(divergence):
    outputs = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert divergence(outputs, outputs.clone()).tolist() == [0.0] * 5


@pytest.mark.parametrize("divergence", [kl_divergence, squared_error])
def test_half_precision_is_compared_in_single(divergence):
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    compared = divergence(outputs, outputs + 1 / 128)
    assert compared.dtype == torch.float32
    assert compared.tolist() == divergence(outputs.float(), (outputs + 1 / 128).float()).tolist()


def test_the_mean_is_over_all_samples_however_they_are_batched():
    network = nn.Linear(3, 2)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    references = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    whole = mean_divergence(network, [(inputs,)], [references], kl_divergence)
    parts = mean_divergence(network, [(inputs[:4],), (inputs[4:],)], references.split([4, 1]), kl_divergence)
    assert parts == pytest.approx(whole)
    assert whole == pytest.approx(kl_divergence(references, network(inputs)).mean().item())
