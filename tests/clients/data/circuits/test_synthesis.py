"""Area and delay are those of the cells that are needed, and a child that exceeds a limit is stopped."""

import numpy as np
import pytest

from fedcosim.clients.data.circuits.synthesis import SynthesisOptions, optimise, read
from fedcosim.core.errors import DataError


def module(expression: str) -> bytes:
    return f"module m(input a, input b, input c, output y); assign y = {expression}; endmodule".encode()


@pytest.mark.parametrize(
    ("expression", "area", "delay_ps"),
    [
        ("~a", 1, 10),
        ("~(a & b)", 2, 20),
        ("a & b", 3, 30),
        ("~(a | b)", 2, 30),
        ("~(a & ~(b & c))", 4, 40),
    ],
)
def test_area_and_delay_are_those_of_the_cells_on_the_way(expression, area, delay_ps, liberty):
    """Inverter: area 1, 10 ps; NAND: 2, 20 ps; NOR: 2, 30 ps; delays do not depend on load or slope, so they add."""
    options = SynthesisOptions(liberty=liberty)
    (made,) = optimise(read(module(expression), "verilog", options), options).values()
    assert (made.area, made.delay_ps) == pytest.approx((area, delay_ps), abs=0.02)


def test_the_script_removes_what_is_there_twice():
    """(a & b) | (a & b & c) is a & b."""
    (made,) = optimise(read(module("(a & b) | (a & b & c)"), "verilog", SynthesisOptions()), SynthesisOptions()).values()
    assert len(made.netlist.fanins_A2) == 1
    assert np.array_equal(made.netlist.fanins_A2, [[0, 2]])


def test_a_file_that_is_no_library_is_refused(tmp_path):
    path = tmp_path / "cells.lib"
    path.write_text("no cells here")
    options = SynthesisOptions(liberty=path)
    with pytest.raises(DataError, match=r"circuits.liberty = '.*cells.lib': ABC cannot read these cells"):
        optimise(read(module("a & b"), "verilog", options), options)


def test_synthesis_that_takes_too_long_is_stopped():
    with pytest.raises(DataError, match=r"circuits.timeout_s = 0.01: synthesis took longer"):
        read(module("a & b"), "verilog", SynthesisOptions(timeout_s=0.01))


def test_a_netlist_that_fills_the_disk_is_stopped():
    """A multiplier of 100 bits has some 60000 gates, at about 600 bytes each."""
    source = b"module m(input [99:0] a, input [99:0] b, output [99:0] y); assign y = a * b; endmodule"
    with pytest.raises(DataError, match="more than 32 MB of gates"):
        read(source, "verilog", SynthesisOptions())


def test_synthesis_that_takes_too_much_memory_is_stopped():
    """Half a million words of 4096 bits fit in no 512 MB."""
    source = b"module m(input [18:0] a, output [4095:0] y); reg [4095:0] r [0:524287]; assign y = r[a]; endmodule"
    with pytest.raises(DataError):
        read(source, "verilog", SynthesisOptions(memory_mb=512))
