"""fedcosim: co-simulate federated learning and the hardware it runs on."""

__version__ = "0.1.0"
