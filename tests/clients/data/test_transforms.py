import numpy as np
import pytest

from fedcosim.clients.data import federate
from fedcosim.clients.data.source import Pool
from fedcosim.clients.data.transforms import rotate_labels, to_domain
from fedcosim.core.errors import DataError

IMAGE = np.array([[[[1, 2], [3, 4]]]], np.uint8)


@pytest.mark.parametrize(
    ("client", "pixels"),
    [(0, [[1, 2], [3, 4]]), (1, [[254, 253], [252, 251]]), (2, [[2, 4], [1, 3]]), (3, [[4, 3], [2, 1]]), (4, [[1, 2], [3, 4]])],
)
def test_four_domains_take_turns_over_clients(client, pixels):
    """Written out by hand: the pilot's third and fourth domain turned out to be the same rotation."""
    np.testing.assert_array_equal(to_domain(IMAGE, client)[0, 0], pixels)


def test_rotated_labels_name_the_class_and_the_angle():
    """Undoing the angle that the label names must give the original image."""
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 5, 5), dtype=np.uint8)
    labels = np.arange(200) % 3
    turned = rotate_labels(Pool(images, labels, ("a", "b", "c")), seed=1)
    assert turned.classes == 12
    assert turned.class_names[6] == "b, 180 degrees"
    np.testing.assert_array_equal(turned.labels_N // 4, labels)
    for image, original, label in zip(turned.images_NCHW, images, turned.labels_N, strict=True):
        upright = image
        for _ in range(label % 4):
            upright = upright[:, ::-1].transpose(0, 2, 1)  # a quarter turn clockwise: flip the rows, transpose
        np.testing.assert_array_equal(upright, original)


def test_all_angles_are_about_equally_frequent():
    turned = rotate_labels(Pool(np.zeros((4000, 1, 2, 2), np.uint8), np.zeros(4000, int), ("a",)), seed=1)
    assert np.bincount(turned.labels_N).min() > 900


@pytest.mark.parametrize("transform", ["domains", "rotated-labels"])
def test_only_square_images_can_be_turned(options, transform):
    fields = {"synthetic_shape": "1x4x6", "synthetic_classes": 2, "train_per_client": 2, "test_per_client": 1}
    with pytest.raises(DataError, match=rf"data\.transform = '{transform}': turns images, .* these are 4 x 6"):
        federate(options(source="synthetic", transform=transform, **fields), clients=2, seed=1)


def test_a_federation_sees_its_domains(options):
    """Client 1's images are the negatives of what it holds without the transform."""
    plain, domains = (federate(options(transform=transform), 4, seed=1) for transform in ("none", "domains"))
    np.testing.assert_allclose(domains.train(1)[0], -plain.train(1)[0], atol=1e-6)
    np.testing.assert_array_equal(domains.test(2)[0], np.rot90(plain.test(2)[0], axes=(2, 3)))
    np.testing.assert_array_equal(domains.train(2)[1], plain.train(2)[1])
