"""Helpers that every other folder of the package may import: argument checks, array conversion, files, progress bars."""
