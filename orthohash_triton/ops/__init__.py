"""Public functions: they check arguments, pick the implementation and know the gradients."""
