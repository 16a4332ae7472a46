"""The implementations that a test runs through, next to the reference."""

import pytest

BOTH = ["cpu", pytest.param("triton", marks=pytest.mark.kernel)]
