import pytest
import torch
from gulliver.compressors.decompose import split_layer
from gulliver.compressors.ranks import energy_rank, noise_free_rank, suggest_ranks, unfolded
from gulliver.spaces.recipe import Decompose
from torch import nn


def with_singular_values(values, rows, columns):
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))[0]
    return left @ torch.diag(torch.tensor(values)) @ right.T


@pytest.mark.parametrize(("share", "rank"), [(0.5, 1), (0.63, 1), (0.65, 2), (0.95, 2), (0.97, 3), (0.999, 4)])
def test_the_rank_of_an_energy_holds_that_share_of_the_squares(share, rank):
    # Squares of 64, 32, 3 and 1 of 100.
    matrix = with_singular_values([8.0, 32**0.5, 3**0.5, 1.0], 9, 7)
    assert energy_rank(matrix, share) == rank


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (80, 80)])
@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_the_rank_of_a_matrix_under_noise_is_found(rank, shape):
    generator = torch.Generator().manual_seed(rank)
    signal = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    noisy = 3 * signal + torch.randn(shape, generator=generator)
    assert noise_free_rank(noisy) == rank
    assert noise_free_rank(1e-3 * noisy) == rank


@pytest.mark.parametrize("seed", range(6))
def test_a_faint_signal_is_found_too(seed):
    # Noise alone reaches singular values of sqrt(60) + sqrt(100) = 17.7, the last of this signal 20.7 to 23.8.
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(60, 5, generator=generator) @ torch.randn(5, 100, generator=generator)
    assert noise_free_rank(0.3 * signal + torch.randn(60, 100, generator=generator)) == 5


def test_suggested_ranks_come_in_multiples():
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        layer.weight.copy_(with_singular_values([10.0] * 13, 30, 40))
    assert suggest_ranks(layer, [0.999]) == (13,)
    assert suggest_ranks(layer, [0.999, 0.01], multiple=8) == (16, 8)


def test_all_ranks_of_a_layer_take_one_singular_value_decomposition(monkeypatch):
    layer = nn.Linear(40, 30)
    wanted = energy_rank(layer.weight.detach(), 0.9), max(noise_free_rank(layer.weight.detach()), 1)
    decomposed, decompose = [], torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: decomposed.append(matrix) or decompose(matrix))
    assert suggest_ranks(layer, [0.9, None]) == wanted
    assert len(decomposed) == 1


@pytest.mark.parametrize("kind", ["svd", "channel_svd"])
def test_what_is_unfolded_is_what_the_split_cuts(kind):
    layer = nn.Conv2d(5, 7, 3)
    rank = energy_rank(unfolded(layer, kind), 1.0)
    images = torch.randn(2, 5, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            split_layer("", layer, rank, Decompose(rank, kind))(images), layer(images), atol=1e-4, rtol=0
        )
