"""Public functions, which check arguments, choose an implementation and define gradients."""
