import pytest
import torch
from torch import nn

from orthohash_triton.train.augmentation import augment, make_augmentation


def test_augmentation_moves_and_mirrors_whole_images() -> None:
    torch.manual_seed(0)
    image = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    batch = augment(image.expand(200, 1, 3, 3), flip=True, crop_padding=0)
    mirrored = batch[:, 0, 0, 0] == 3
    assert 60 < int(mirrored.sum()) < 140
    assert torch.equal(batch[mirrored][0], image[0].flip(2))
    assert torch.equal(batch[~mirrored][0], image[0])
    shifted = augment(image.expand(300, 1, 3, 3), flip=False, crop_padding=1)
    assert {tuple(s.flatten().tolist()) for s in shifted} == {
        tuple(nn.functional.pad(image, (1, 1, 1, 1))[0, 0, top : top + 3, left : left + 3].flatten().tolist())
        for top in range(3)
        for left in range(3)
    }


def test_colour_channels_move_together() -> None:
    images = torch.rand(1, 1, 6, 6).expand(20, 3, 6, 6)
    moved = augment(images, flip=True, crop_padding=2)
    assert moved.shape == (20, 3, 6, 6)
    assert torch.equal(moved[:, 0], moved[:, 2])


@pytest.mark.parametrize("kind", ["none", "light", "strong"])
@pytest.mark.parametrize("shape", [(1, 9, 7), (3, 8, 8)])
def test_parts_of_a_batch_are_changed_as_the_whole(kind: str, shape: tuple[int, ...]) -> None:
    """The number of processes that share a batch has no effect, also with four images, the number of kornia's colour changes."""
    change = make_augmentation(kind, flip=True, crop_padding=1, sample_shape=shape)
    for count in (4, 11):
        images = torch.rand(count, *shape)
        torch.manual_seed(1)
        whole = change(images, count, slice(None))
        after = torch.random.get_rng_state()
        assert whole.shape == images.shape
        assert whole.dtype == torch.float32
        assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
        assert torch.equal(whole, images) == (kind == "none")
        for part in (slice(0, 3), slice(3, 4), slice(1, count)):
            torch.manual_seed(1)
            torch.testing.assert_close(change(images[part], count, part), whole[part])
            assert torch.equal(torch.random.get_rng_state(), after)  # the same number of random numbers was drawn


def test_strong_changes_differ_from_image_to_image_and_are_drawn_from_torch() -> None:
    change = make_augmentation("strong", flip=False, crop_padding=0, sample_shape=(3, 16, 16))
    image = torch.rand(1, 3, 16, 16).expand(20, 3, 16, 16)
    torch.manual_seed(3)
    first = change(image, 20, slice(None))
    second = change(image, 20, slice(None))
    torch.manual_seed(3)
    assert torch.equal(change(image, 20, slice(None)), first)
    assert not torch.equal(first, second)
    assert len(first.flatten(1).unique(dim=0)) == 20


def test_strong_keeps_what_an_image_shows() -> None:
    """The white half of an image stays lighter than the black half."""
    image = torch.zeros(1, 1, 16, 16)
    image[..., :8] = 1
    changed = make_augmentation("strong", flip=False, crop_padding=0, sample_shape=(1, 16, 16))(
        image.expand(50, 1, 16, 16), 50, slice(None)
    )
    assert float((changed[..., 0] - changed[..., -1]).mean()) > 0.3


def test_without_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "kornia.augmentation", None)
    with pytest.raises(ImportError, match=r'"strong" needs kornia: pip install "'):
        make_augmentation("strong", flip=True, crop_padding=0, sample_shape=(3, 8, 8))
