"""Systems of the literature, one declarative object each."""
