"""Crossbars give the exact product whenever converters lose nothing, however numbers are cut up and work is split."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reram_reference import product

from fedcosim.core.errors import SpecError
from fedcosim.core.options import validate
from fedcosim.hwsim.reram.adc import Trq, TrqParameters, Uniform, table
from fedcosim.hwsim.reram.crossbar import CrossbarOptions, Crossbars, Tally
from fedcosim.hwsim.reram.nonideal import AnalogCrossbars, NonidealOptions
from fedcosim.hwsim.simulator import HwsimError, Job


def lossless(options, resolution=1):
    return table([Uniform(options.full_bits)], options, resolution=resolution)


def random_case(seed, vectors, groups, outputs, inputs, options):
    stream = np.random.default_rng(seed)
    limit, top = 2 ** (options.weight_bits - 1) - 1, 2**options.activation_bits - 1
    weight = stream.integers(-limit, limit + 1, (groups, outputs, inputs))
    x = stream.integers(0, top + 1, (vectors, groups, inputs))
    weight[0, 0], x[0] = stream.choice([-limit, limit], inputs), top  # extremes
    return x.astype(np.uint16), weight


@pytest.mark.parametrize("encoding", ["offset", "differential"])
@pytest.mark.parametrize("cell_bits", [1, 2, 4])
@pytest.mark.parametrize("inputs", [1, 9, 127, 128, 129, 300, 1152])
@pytest.mark.parametrize("outputs", [1, 3, 64])
def test_lossless_converters_give_the_exact_product(encoding, cell_bits, inputs, outputs):
    """Not one element may differ from an int64 product (acceptance A)."""
    options = CrossbarOptions(encoding=encoding, cell_bits=cell_bits)
    x, weight = random_case(inputs, 3, 1, outputs, inputs, options)
    expected = np.einsum("ngk,gok->ngo", x.astype(np.int64), weight)
    crossbars = Crossbars(weight, options)
    assert np.array_equal(crossbars.multiply(x, lossless(options), Tally()), expected)
    assert np.array_equal(crossbars.exact(x), expected)


@settings(max_examples=15)  # each geometry is compiled
@given(
    rows=st.sampled_from([1, 5, 100, 128]),
    cell_bits=st.sampled_from([1, 2, 8]),
    dac_bits=st.sampled_from([1, 3]),
    weight_bits=st.sampled_from([2, 8, 16]),
    activation_bits=st.sampled_from([3, 8, 16]),
    encoding=st.sampled_from(["offset", "differential"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(1, 300)),
    seed=st.integers(0, 2**32),
)
def test_any_geometry_gives_the_exact_product(rows, cell_bits, dac_bits, weight_bits, activation_bits, encoding, shape, seed):
    """Widths that do not divide evenly are where slicing goes wrong; analog crossbars without noise are a second way."""
    options = CrossbarOptions(
        rows=rows,
        cell_bits=cell_bits,
        dac_bits=dac_bits,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        encoding=encoding,
    )
    x, weight = random_case(seed, *shape, options)
    expected = product(x, weight)
    tally, analog = Tally.with_histogram(options), Tally.with_histogram(options)
    assert Crossbars(weight, options).multiply(x, lossless(options), tally).tolist() == expected
    by_conductance = AnalogCrossbars(weight, options, NonidealOptions())
    assert by_conductance.multiply(x, lossless(options, 2), analog).tolist() == expected
    assert np.array_equal(tally.histogram_CIY, analog.histogram_CIY)
    assert tally.idle == analog.idle
    assert tally.bit_lines == analog.bit_lines == tally.histogram_CIY.sum()


@pytest.mark.parametrize("encoding", ["offset", "differential"])
def test_accumulation_holds_at_66000_inputs_of_largest_size(encoding):
    """65 025 x 66 000 is beyond int32, and 32 385 x 66 000 beyond what float32 holds exactly."""
    options = CrossbarOptions(encoding=encoding)
    x = np.full((1, 1, 66_000), 255, np.uint16)
    weight = np.stack([np.full(66_000, 127), np.full(66_000, -127)])[None]
    got = Crossbars(weight, options).multiply(x, lossless(options), Tally())
    assert got.ravel().tolist() == [255 * 127 * 66_000, -255 * 127 * 66_000]


def test_a_tiny_product_by_hand():
    """Every figure computed by hand: value, conversions, histogram, steps (case 10)."""
    options = CrossbarOptions(encoding="differential")
    x = np.array([[[3, 0, 255, 17]]], np.uint16)
    weight = np.array([[5, 7, -127, 64], [-3, 127, 1, -64]])[None]
    tally = Tally.with_histogram(options)
    adc = Trq(TrqParameters(fine_bits=1, coarse_bits=4, fine_step=1, shift=0))
    got = Crossbars(weight, options).multiply(x, table([adc], options), tally)
    assert got.ravel().tolist() == [-31282, -842]
    levels = tally.histogram_CIY.sum(axis=(0, 1))
    assert tally.bit_lines == 224
    assert (levels[0], levels[1], levels[2:].sum()) == (148, 76, 0)
    steps = adc.coarse_steps * tally.coarse + adc.fine_steps * (tally.bit_lines - tally.coarse)
    assert (224 * options.full_bits, steps) == (1792, 448)


@pytest.mark.parametrize("crossbars", [Crossbars, lambda w, o: AnalogCrossbars(w, o, NonidealOptions(programming_sigma=0.1))])
def test_neither_batches_nor_threads_change_a_bit(crossbars):
    """A result that depends on how work was split cannot be reproduced (acceptance H)."""
    options = CrossbarOptions()
    x, weight = random_case(0, 50, 2, 5, 300, options)
    stored = crossbars(weight, options)
    adc = table([Trq(TrqParameters(fine_bits=2, coarse_bits=3, fine_step=1, shift=2))], options, resolution=stored.resolution)
    whole, split, threaded = (Tally.with_histogram(options) for _ in range(3))
    expected = stored.multiply(x, adc, whole)
    parts = np.concatenate([stored.multiply(part, adc, split) for part in np.array_split(x, 7)])
    assert np.array_equal(parts, expected)
    assert np.array_equal(stored.multiply(x, adc, threaded, workers=3), expected)
    for other in (split, threaded):
        assert (other.coarse, other.clipped, other.idle, other.vectors) == (
            whole.coarse,
            whole.clipped,
            whole.idle,
            whole.vectors,
        )
        assert np.array_equal(other.histogram_CIY, whole.histogram_CIY)


@settings(max_examples=30)
@given(
    n1=st.integers(0, 4),
    n2=st.integers(1, 5),
    shift=st.integers(0, 4),
    encoding=st.sampled_from(["offset", "differential"]),
    skip=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_kernel_counts_what_the_histogram_says(n1, n2, shift, encoding, skip, seed):
    """Steps and clipping are linear in the histogram; two ways to them must agree (acceptance D)."""
    options = CrossbarOptions(encoding=encoding)
    stream = np.random.default_rng(seed)
    x = (stream.integers(0, 256, (4, 1, 150)) * (stream.random((4, 1, 150)) < 0.02)).astype(np.uint16)
    x[:, :, :128] >>= 4  # whole cycles of a tile are idle
    weight = stream.integers(-127, 128, (1, 3, 150))
    adc = Trq(TrqParameters(fine_bits=n1, coarse_bits=n2, fine_step=1, shift=shift))
    tally = Tally.with_histogram(options)
    Crossbars(weight, options).multiply(x, table([adc], options, skip), tally)
    levels = tally.histogram_CIY.sum(axis=(0, 1))
    if skip:
        levels[0] -= tally.idle
    done = adc.convert(np.arange(options.y_max + 1))
    assert tally.idle > 0
    assert tally.coarse == levels @ done.coarse
    assert tally.clipped == levels @ done.clipped


def test_converters_of_their_own_act_on_their_column_only():
    """A lossy converter on the lowest slice must leave the others exact."""
    options = CrossbarOptions(encoding="differential")
    x, weight = random_case(1, 4, 1, 3, 100, options)
    blind = Uniform(1, 256)  # gives 0 for everything
    adcs = [blind if c % options.slices == 0 else Uniform(8) for c in range(options.columns_per_output)]
    got = Crossbars(weight, options).multiply(x, table(adcs, options), Tally())
    even = np.sign(weight) * (np.abs(weight) & ~1)
    assert np.array_equal(got, np.einsum("ngk,gok->ngo", x.astype(np.int64), even))


def test_crossbars_and_conversions_of_known_layers():
    """LeNet-5's and a ResNet-18 layer's, counted by hand (cases 11 and 12)."""
    lenet = [(25, 6, 784), (150, 16, 100), (400, 120, 1), (120, 84, 1), (84, 10, 1)]
    differential, offset = CrossbarOptions(encoding="differential"), CrossbarOptions(encoding="offset")
    counts = [positions * differential.conversions(k, o) for k, o, positions in lenet]
    assert counts == [526_848, 358_400, 53_760, 9_408, 1_120]
    assert sum(counts) == 949_536
    assert sum(positions * offset.conversions(k, o) for k, o, positions in lenet) == 542_592
    assert sum(k * o * positions for k, o, positions in lenet) == 416_520
    assert [(differential.tiles(k), o * differential.columns_per_output) for k, o, _ in lenet] == [
        (1, 84),
        (2, 224),
        (4, 1680),
        (1, 1176),
        (1, 140),
    ]
    assert 56 * 56 * differential.conversions(576, 64) == 112_394_240
    assert 56 * 56 * CrossbarOptions(encoding="differential", cell_bits=2).conversions(576, 64) == 64_225_280


@pytest.mark.parametrize(
    ("rows", "dac_bits", "cell_bits", "bits"),
    [(128, 1, 1, 8), (128, 1, 2, 9), (128, 2, 2, 11), (256, 1, 1, 9), (64, 1, 1, 7), (32, 1, 1, 6)],
)
def test_lossless_bits(rows, dac_bits, cell_bits, bits):
    """128 rows of one-bit cells have 129 levels, hence 8 bits, not 7."""
    assert CrossbarOptions(rows=rows, dac_bits=dac_bits, cell_bits=cell_bits).full_bits == bits


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rows": 0}, "crossbar.rows = 0"),
        ({"rows": 1025}, "crossbar.rows = 1025"),
        ({"cell_bits": 3}, "crossbar.cell_bits = 3: cells hold 1, 2, 4 or 8 bits"),
        ({"weight_bits": 1}, "crossbar.weight_bits = 1"),
        ({"activation_bits": 17}, "crossbar.activation_bits = 17"),
        ({"dac_bits": 9}, "crossbar.dac_bits = 9: more than activation_bits = 8"),
        ({"rows": 1024, "cell_bits": 8, "dac_bits": 8}, "crossbar.rows = 1024"),
    ],
)
def test_impossible_crossbars_are_refused(fields, told):
    with pytest.raises(SpecError) as refused:
        validate(CrossbarOptions, fields, "crossbar")
    assert told in str(refused.value)


def test_numbers_beyond_their_bits_are_refused():
    options = CrossbarOptions()
    with pytest.raises(HwsimError, match="model: weights outside the 8 bits"):
        Crossbars(np.full((1, 1, 4), 128), options)
    stored = Crossbars(np.ones((1, 1, 4), int), options)
    for wrong in (np.full((1, 1, 4), 256), np.full((1, 1, 4), -1)):
        with pytest.raises(HwsimError, match="data: activations outside 0 to 255"):
            stored.multiply(wrong, lossless(options), Tally())
    with pytest.raises(HwsimError, match="vectors of shape"):
        stored.multiply(np.ones((1, 1, 5), np.uint16), lossless(options), Tally())


def test_a_cancelled_job_ends_the_product():
    """A caller that has gone must not keep a machine busy."""
    gone = threading.Event()
    gone.set()
    options = CrossbarOptions()
    with pytest.raises(HwsimError) as ended:
        Crossbars(np.ones((1, 1, 4), int), options).multiply(
            np.ones((1, 1, 4), np.uint16), lossless(options), Tally(), Job(cancelled=gone.is_set), workers=2
        )
    assert ended.value.code == "CANCELLED"
