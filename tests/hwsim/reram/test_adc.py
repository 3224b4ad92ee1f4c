"""Converters do what a search one comparison at a time does, and cost what it costs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reram_reference import sar, twin_range

from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.hwsim.reram.adc import ADCS, AdcOptions, LloydMax, Trq, TrqParameters, Uniform, _best_levels, fixed
from fedcosim.hwsim.reram.crossbar import CrossbarOptions
from fedcosim.hwsim.simulator import HwsimError

CROSSBAR = CrossbarOptions()
LEVELS = np.arange(129)
GOLDEN = {0: 500, 1: 130, 2: 80, 3: 60, 4: 50, 5: 40, 8: 60, 16: 50, 32: 25, 64: 5}


def trq(n1, n2, d1, m, b=0, **rest):
    return Trq(TrqParameters(fine_bits=n1, coarse_bits=n2, fine_step=d1, shift=m, start=b), **rest)


A, B, C = trq(3, 4, 1, 3), trq(3, 3, 2, 3), trq(4, 4, 1, 3, 40)


def convert(adc, y):
    """Return flag, payload, value and steps of one bit line."""
    code, flag, _ = adc.encode(np.array([y]))
    return int(flag[0]), int(code[0]), int(adc.convert(np.array([y])).value[0]), int(adc.steps(np.array([y]))[0])


@pytest.mark.parametrize(
    ("y", "trials", "code"),
    [
        (45, [128, 64, 32, 48, 40, 44, 46, 45], 45),
        (128, [128, 192, 160, 144, 136, 132, 130, 129], 128),
    ],
)
def test_the_reference_searches_as_a_data_sheet_says(y, trials, code):
    """The oracle itself, by hand (cases 1 and 2)."""
    assert sar(y, 8) == (code, trials)
    lossless = Uniform(8)
    assert (lossless.convert(np.array([y])).value[0], lossless.steps(np.array([y]))[0]) == (code, 8)


@pytest.mark.parametrize(
    ("adc", "y", "flag", "payload", "value", "steps"),
    [
        (A, 5, 0, 5, 5, 4),
        (A, 7, 0, 7, 7, 4),
        (A, 8, 1, 1, 8, 5),
        (A, 11, 1, 1, 8, 5),
        (A, 12, 1, 2, 16, 5),
        (A, 20, 1, 3, 24, 5),  # half to even would give 16
        (A, 45, 1, 6, 48, 5),
        (A, 100, 1, 13, 104, 5),
        (A, 128, 1, 15, 120, 5),
        (B, 3, 0, 2, 4, 4),
        (B, 15, 0, 7, 14, 4),
        (B, 16, 1, 1, 16, 4),
        (B, 100, 1, 6, 96, 4),
        (B, 128, 1, 7, 112, 4),
        (C, 47, 0, 7, 47, 6),
        (C, 39, 1, 5, 40, 6),
        (C, 56, 1, 7, 56, 6),
        (C, 60, 1, 8, 64, 6),
        (C, 0, 1, 0, 0, 6),
    ],
)
def test_twin_range_conversions_by_hand(adc, y, flag, payload, value, steps):
    """Cases 3, 4, 5, 7 and 8."""
    assert convert(adc, y) == (flag, payload, value, steps)


def test_errors_of_all_levels_by_hand():
    """Case 6, and the worst of case 7: beyond the last code the error is larger, and counted as clipped."""
    done = A.convert(LEVELS)
    error = np.abs(done.value - LEVELS)
    assert error[:8].max() == 0
    assert error[8:124].max() == 4
    assert (error.max(), error.argmax()) == (8, 128)
    assert np.array_equal(np.flatnonzero(done.clipped), np.arange(124, 129))
    assert np.abs(B.convert(LEVELS).value - LEVELS)[:16].max() == 1
    assert B.convert(LEVELS).value[128] - 128 == -16


@pytest.mark.parametrize(
    ("adc", "operations", "squares"),
    [
        (A, 4140, 0),
        (trq(2, 4, 1, 3), 3460, 1160),
        (trq(2, 5, 1, 2), 3690, 40),
        (trq(1, 4, 1, 3), 3110, 2020),
        (Uniform(4, 8), 4000, 2150),
        (Uniform(4, 1), 4000, 19280),
        (Uniform(5, 4), 5000, 550),
    ],
)
def test_steps_and_errors_of_a_golden_histogram(adc, operations, squares):
    """Case 9: a thousand conversions, added up by hand; 8 bits each would be 8000 steps."""
    y, count = np.array(list(GOLDEN)), np.array(list(GOLDEN.values()))
    assert adc.steps(y) @ count == operations
    assert (adc.convert(y).value - y) ** 2 @ count == squares


@settings(max_examples=250)
@given(
    n1=st.integers(0, 5),
    n2=st.integers(1, 8),
    d1=st.sampled_from([1, 2, 4]),
    m=st.integers(0, 6),
    start=st.integers(0, 20),
    detection=st.integers(0, 2),
)
def test_every_twin_range_is_a_search_one_comparison_at_a_time(n1, n2, d1, m, start, detection):
    """Value, steps and code of all levels; errors stay within half a step where nothing is clipped (acceptance B)."""
    b = start * d1
    adc = trq(n1, n2, d1, m, b, detection_steps=detection)
    done, steps = adc.convert(LEVELS), adc.steps(LEVELS)
    code, flag, _ = adc.encode(LEVELS)
    for y in LEVELS.tolist():
        assert (done.value[y], steps[y], flag[y], code[y]) == twin_range(y, n1, n2, d1, m, b, detection)
    assert np.array_equal(adc.decode(code, flag), done.value)
    error = np.abs(done.value - LEVELS)
    fine = ~done.coarse
    assert (error[fine & (code < 2**n1 - 1)] <= d1 / 2).all()
    assert (error[fine] <= d1).all()
    assert (error[done.coarse & ~done.clipped] <= d1 * 2**m / 2).all()


@given(y=st.floats(0, 128), n1=st.integers(0, 4), m=st.integers(0, 4))
def test_noisy_bit_lines_are_converted_where_the_thresholds_are(y, n1, m):
    """A table has two levels a step, since thresholds lie at multiples of half a step."""
    adc = trq(n1, 4, 1, m)
    below = np.floor(2 * y) / 2
    assert adc.convert(np.array([y])).value == adc.convert(np.array([below])).value


def test_a_non_monotone_converter_is_told_of_and_never_offered():
    """y = 7 gives 7, but 8 gives 0: the seam of a range that is too coarse (acceptance C)."""
    seam = trq(3, 3, 1, 5)
    assert seam.convert(np.array([7, 8])).value.tolist() == [7, 0]
    assert any("not monotone" in warning for warning in seam.check(CROSSBAR, "adc.trq.0"))
    for adc in ADCS["trq"].candidates(AdcOptions(starts=[16]), CROSSBAR, np.ones(129)):
        assert (np.diff(adc.convert(LEVELS).value) >= 0).all()


def test_the_rule_for_monotone_seams_accepts_nothing_else():
    """N1 >= M - 1, and R2's top not below R1's, is sufficient: an analytic oracle for the scan."""
    for n1 in range(6):
        for n2 in range(1, 9):
            for d1 in (1, 2, 4):
                for m in range(7):
                    if n1 >= m - 1 and (2**n2 - 1) * 2**m >= 2**n1 - 1:
                        assert trq(n1, n2, d1, m).is_monotone(128), (n1, n2, d1, m)


@given(counts=st.lists(st.integers(0, 20), min_size=10, max_size=10).filter(any), bits=st.integers(0, 2))
def test_no_levels_beat_lloyd_max_in_mean_square(counts, bits):
    """It is the bound that it is offered as; the oracle tries all sets of levels."""
    weight = np.array(counts)

    def squares(levels):
        return sum(count * min((y - level) ** 2 for level in levels) for y, count in enumerate(counts))

    found = list(_best_levels(weight, 2**bits))[-1]
    assert len(found) <= 2**bits
    assert squares(found) == min(squares(levels) for levels in combinations(range(10), 2**bits))
    done = LloydMax(found).convert(np.arange(10)).value
    assert ((done - np.arange(10)) ** 2) @ weight == squares(found)


def test_flooring_is_decoded_half_a_step_up():
    """Comparators without a shifted threshold give the middle of their interval."""
    assert Uniform(4, 8, "floor").convert(np.array([0, 7, 8, 127])).value.tolist() == [4, 4, 12, 124]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"fine_bits": -1, "coarse_bits": 3}, "fine_bits = -1"),
        ({"fine_bits": 1, "coarse_bits": 0}, "coarse_bits = 0"),
        ({"fine_bits": 1, "coarse_bits": 3, "shift": -1}, "shift = -1"),
        ({"fine_bits": 1, "coarse_bits": 3, "start": -8}, "start = -8"),
    ],
)
def test_parameters_out_of_range_are_refused(fields, told):
    with pytest.raises(SpecError) as refused:
        validate(TrqParameters, fields, "trq")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("adc", "field"),
    [
        (trq(1, 9, 1, 0), "adc.trq.0.coarse_bits"),
        (trq(9, 3, 1, 0), "adc.trq.0.fine_bits"),
        (trq(1, 3, 3, 0), "adc.trq.0.fine_step"),
        (trq(1, 3, 2, 0, 5), "adc.trq.0.start"),
        (trq(4, 3, 1, 0, 120), "adc.trq.0"),
    ],
)
def test_parameters_that_make_no_converter_are_refused(adc, field):
    with pytest.raises(HwsimError) as refused:
        fixed(AdcOptions(trq=[adc.parameters]), CROSSBAR, 5)
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", field)


def test_odd_parameters_are_told_of():
    """Bits that reach nothing, and bit lines that nothing reaches."""
    assert any("wasted" in warning for warning in trq(1, 8, 4, 2).check(CROSSBAR, "adc"))
    assert any("clipped" in warning for warning in trq(2, 3, 1, 1).check(CROSSBAR, "adc"))
    assert trq(3, 5, 1, 3).check(CROSSBAR, "adc") == []


def test_settings_are_for_all_layers_for_each_or_for_each_column():
    one = TrqParameters(fine_bits=1, coarse_bits=5, shift=2)
    for count, width in ((1, 1), (3, 1), (24, 8)):
        adcs, _ = fixed(AdcOptions(trq=[one] * count), CROSSBAR, 3)
        assert [len(own) for own in adcs] == [width] * 3
    with pytest.raises(HwsimError, match="2 settings; give 0, 1, 3"):
        fixed(AdcOptions(trq=[one] * 2), CROSSBAR, 3)
