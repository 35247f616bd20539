import torch
from gulliver.tasks.labelled_images import LabelledImages, Normalization, fixed_permutation


def test_normalization_matches_its_formula():
    images = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    expected = (images.double() / 255 - 0.25) / 0.5
    normalized = Normalization(white=255.0, mean=0.25, standard_deviation=0.5)(images)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized.double(), expected, rtol=0, atol=1e-6)


def test_selection_keeps_images_with_their_labels():
    data = LabelledImages(torch.arange(10).reshape(10, 1, 1, 1), torch.arange(10))
    chosen = data[torch.tensor([7, 2])]
    assert chosen.images.flatten().tolist() == chosen.labels.tolist() == [7, 2]
    assert len(data[3:5]) == 2


def test_the_fixed_permutation_never_changes():
    assert fixed_permutation(10, seed=0).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
