"""FedCVAE-Ens: one-shot federated learning with the decoders of conditional variational autoencoders.

Source: Heinbaugh, Luz-Ricca, Shao, "Data-Free One-Shot Federated Learning Under Very High Statistical Heterogeneity", ICLR
2023. Each client trains a conditional VAE and uploads its decoder and label counts; the server samples all decoders and
trains one classifier. It is FedDiff with another generator.
"""

from __future__ import annotations

from typing import Literal

from ..clients.tasks.cvae import CvaeOptions
from .generative import GenerativeOptions


class FedCvaeOptions(GenerativeOptions):
    """Clients upload the decoder of a conditional VAE once; the server samples them all and trains the classifier on that."""

    name: Literal["fedcvae"] = "fedcvae"
    generator: CvaeOptions = CvaeOptions()
    """The autoencoder, its training and its sampling."""
