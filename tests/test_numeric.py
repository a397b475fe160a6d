"""A share as text never looks like nothing or everything unless it is."""

import pytest

from bigramlib.numeric import percent


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0.00%"),
        (1, "100.00%"),
        (0.0138, "1.38%"),
        (0.5, "50.00%"),
        (0.001, "0.10%"),
        (0.00091, "0.091%"),
        (1.5e-5, "0.0015%"),
        (2e-9, "0.00000020%"),
        (1 - 1.5e-5, "99.9985%"),
        (float("nan"), "nan%"),
    ],
)
def test_a_share_has_as_many_decimals_as_it_needs(share, shown):
    assert percent(share) == shown


def test_fewer_decimals_are_for_shares_that_do_not_need_more():
    assert percent(0.0138, 1) == "1.4%"
    assert percent(0.61, 0) == "61%"
    assert percent(0.0004, 1) == "0.040%"
