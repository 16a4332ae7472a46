"""A run's gallery in the browser: click an image or bring one, and see its neighbours. Served on this machine only."""

from ._server import PORT, serve

__all__ = ["PORT", "serve"]
