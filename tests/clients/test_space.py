"""Pictures of a matched model: the same model gives the same bytes, and principal axes are what they say."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from sklearn.decomposition import PCA

from fedcosim.clients.data.multimodal import Samples
from fedcosim.clients.data.silos import Pixels, SiloType, Tokens
from fedcosim.clients.models.towers import TowersOptions
from fedcosim.clients.space import pictures, principal_axes


def test_principal_axes_are_those_of_an_independent_pca():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([9.0, 4, 1, 1, 1, 1])
    theirs = PCA(2).fit_transform(x.double().numpy())
    ours = principal_axes(x).numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-6)


def test_pictures_are_images_and_depend_on_the_model_alone():
    kind = SiloType("pairs", {"image": Pixels((3, 8, 8)), "text": Tokens(9, 3)})
    model = TowersOptions(dim=8, depth=1, heads=2).build_for(kind, 0)
    views = {"image": torch.rand(12, 3, 8, 8) * 2 - 1, "text": torch.randint(1, 9, (12, 1, 3))}
    samples = Samples(views, torch.arange(12))
    found, again = pictures(model, samples), pictures(model, samples)
    assert found == again
    assert set(found) == {"retrieval.png", "space.png"}
    for blob in found.values():
        assert min(Image.open(io.BytesIO(blob)).size) > 200
