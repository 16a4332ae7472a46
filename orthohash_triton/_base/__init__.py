"""What every other part of the package may import: argument checks, array conversion, files, progress bars, the environment."""
