"""Packing is exact for every width and length, and its bytes are those of a plain little-endian bit stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedcosim.compression.packing import WORDS_AT_ONCE, pack, packed_bytes, unpack

WIDTHS = st.integers(1, 8)


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return what NumPy's own bit packing makes of the codes, bit by bit."""
    return np.packbits((codes[:, None] >> np.arange(bits)) & 1, bitorder="little")


@given(data=st.data(), bits=WIDTHS, count=st.integers(0, 300))
def test_codes_survive_packing(data, bits, count):
    codes = data.draw(arrays(np.uint8, count, elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)
    assert len(packed) == packed_bytes(count, bits) == -(-count * bits // 8)
    assert np.array_equal(packed, bit_stream(codes, bits))
    assert np.array_equal(unpack(packed, bits, count), codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [8 * WORDS_AT_ONCE - 1, 8 * WORDS_AT_ONCE, 8 * WORDS_AT_ONCE + 1, 100_003])
def test_chunks_join_without_a_seam(bits, count):
    """Long arrays are packed in chunks, which must not show in the bytes."""
    codes = np.random.default_rng(bits).integers(0, 2**bits, count, dtype=np.uint8)
    packed = pack(codes, bits)
    assert np.array_equal(packed, bit_stream(codes, bits))
    assert np.array_equal(unpack(packed, bits, count), codes)


@given(bits=st.integers(1, 7), excess=st.integers(0, 7))
def test_a_code_that_does_not_fit_is_refused(bits, excess):
    codes = np.array([min(255, 2**bits + excess)], np.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        pack(codes, bits)


@pytest.mark.parametrize("packed", [np.zeros(2, np.uint8), np.zeros(4, np.uint8), np.array([0, 0, 128], np.uint8)])
def test_wrong_lengths_and_stray_bits_are_refused(packed):
    """One array of codes has one packed form: seven codes of three bits are three bytes with three unused bits of 0."""
    with pytest.raises(ValueError, match=r"bytes|unused"):
        unpack(packed, 3, 7)


@pytest.mark.parametrize("bits", [0, 9])
def test_widths_beyond_a_byte_are_refused(bits):
    with pytest.raises(ValueError, match="choose 1 to 8"):
        pack(np.zeros(1, np.uint8), bits)
