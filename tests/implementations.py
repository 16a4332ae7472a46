"""The implementations that tests compare with the reference."""

import pytest

BOTH = ["cpu", pytest.param("triton", marks=pytest.mark.kernel)]
