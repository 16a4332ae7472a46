"""A web page that shows the gallery of a run and searches it by an image. It is served to this machine only."""

from ._server import PORT, serve

__all__ = ["PORT", "serve"]
