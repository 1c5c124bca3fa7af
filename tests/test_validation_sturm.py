"""Sturm's theorem against polynomials whose roots are known."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation import sturm

RATIONAL = st.fractions(min_value=-8, max_value=8, max_denominator=6)


def _product(a, b):
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return tuple(result)


def _polynomial(roots, pairs):
    p = (Fraction(1),)
    for root in roots:
        p = _product(p, (-root, Fraction(1)))
    for a, b in pairs:  # (x - a)² + b², no real root
        p = _product(p, (a * a + b * b, -2 * a, Fraction(1)))
    return p


@given(
    st.lists(RATIONAL, min_size=1, max_size=4),
    st.lists(st.tuples(RATIONAL, st.sampled_from([Fraction(1, 3), Fraction(2)])), max_size=2),
    RATIONAL,
    RATIONAL,
)
def test_counts_distinct_real_roots_in_half_open_intervals(roots, pairs, low, high):
    p = _polynomial(roots, pairs)
    assert sturm.count_roots(p) == len(set(roots))
    low, high = min(low, high), max(low, high)
    # at a multiple root every member of the chain vanishes: the theorem needs ends that are no multiple roots
    if all(roots.count(end) <= 1 for end in (low, high)):
        assert sturm.count_roots(p, low, high) == len({root for root in roots if low < root <= high})


@given(st.lists(RATIONAL, min_size=1, max_size=1), RATIONAL.filter(lambda width: width > 0))
def test_isolation_brackets_the_root(roots, width):
    p = _polynomial(roots, [(Fraction(0), Fraction(1))])
    low, high = sturm.isolate(p, Fraction(-17, 2), Fraction(18, 2), width)
    assert low <= roots[0] <= high
    assert high - low <= width


def test_isolation_refuses_ends_of_one_sign():
    with pytest.raises(ValueError, match="must change sign"):
        sturm.isolate((Fraction(1), Fraction(0), Fraction(1)), Fraction(-1), Fraction(1), Fraction(1, 8))


def test_taylor_polynomial_is_its_own_derivative_up_to_the_last_term():
    for order in range(1, 12):
        assert sturm.derivative(sturm.taylor_polynomial(order)) == sturm.taylor_polynomial(order - 1)
    assert sturm.evaluate(sturm.taylor_polynomial(3), Fraction(2)) == 1 + 2 + 2 + Fraction(4, 3)
