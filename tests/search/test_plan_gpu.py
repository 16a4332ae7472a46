"""Tests of the choice between the scan and filed codes on a GPU, from modelled costs."""

import numpy as np
import pytest

from orthohash_triton.search._plan import Demand, Sizes, scan_cost, way_cost


# One query of a few million codes and a batch on a small gallery end before the host has launched a search of filed codes.
@pytest.mark.parametrize(
    ("queries", "codes", "sizes", "met", "filed"),
    [
        (1, 10**6, Sizes(10**5, 100, 3_000), 50, False),
        (10_000, 60_000, Sizes(4_080, 10, 220), 150, False),
        (10_000, 10**8, Sizes(10**7, 10_000, 300_000), 300, True),
        (10_000, 10**8, Sizes(10**8, 10_000, 300_000), 10**8, False),
    ],
)
def test_costs_on_a_gpu(queries, codes, sizes, met, filed):
    demand = Demand("nearest", queries, codes, 64, 100, on_gpu=True)
    assert (way_cost("filing", demand, sizes, np.array([met])) < scan_cost(demand)) == filed
    assert scan_cost(demand) != scan_cost(demand._replace(on_gpu=False))
