"""The REST API: everything the command line can do with experiments, for other computers and for the browser."""

from .app import Service, create_app

__all__ = ["Service", "create_app"]
