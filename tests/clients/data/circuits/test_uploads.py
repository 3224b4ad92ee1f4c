"""What strangers send is either a combinational circuit, and gets its labels, or is refused with the reason."""

import numpy as np
import pytest
from circuit_interpreter import bits

from fedcosim.clients.data.circuits import CircuitsOptions, classes, concatenate, tokens, uploaded
from fedcosim.clients.data.circuits.uploads import SIZE_BYTES
from fedcosim.core.errors import DataError

OPTIONS = CircuitsOptions(max_inputs=7)


def verilog(body: str, ports: str = "input a, input b, output y") -> bytes:
    return f"module m({ports}); {body} endmodule\n".encode()


def upload(source: bytes, name: str = "m.v"):
    return uploaded(name, source, OPTIONS, seed=1)


GOOD = {
    "verilog": ("m.v", verilog("assign y = a & b;")),
    "carriage returns": ("m.v", verilog("\r\n assign y =\r\n a & b;\r\n")),
    "escaped names": ("m.v", verilog(r"assign y = \opcode[0] & b;", r"input \opcode[0] , input b, output y")),
    "keywords as names": ("m.v", verilog(r"and \wire (y, \and , b);", r"input \and , input b, output y")),
    "several modules": ("m.v", b"module n(input a, b, output y); assign y = a & b; endmodule\n" + verilog("n u(a, b, y);")),
    "allowed directives": ("m.v", b"`timescale 1ns/1ps\n`default_nettype none\n" + verilog("assign y = a & $unsigned(b);")),
    "an input that is not used": ("m.v", verilog("assign y = a & b;", "input a, input c, input b, output y")),
    "blif": ("m.blif", b".model m\n.inputs a b\n.outputs y\n.names a b y\n11 1\n.end\n"),
    "bench": ("m.bench", b"# two\nINPUT(a)\nINPUT(b)\nOUTPUT(y)\n\nn = NAND(a, b)\ny = NOT(n)\n"),
    "bench with keywords as names": ("M.BENCH", b"INPUT(and)\r\nINPUT(b)\r\nOUTPUT(module)\r\nmodule = AND(and, b)\r\n"),
    "aiger in ASCII": ("m.aag", b"aag 3 2 0 1 1\n2\n4\n6\n6 2 4\n"),
    "aiger in binary": ("m.aig", b"aig 3 2 0 1 1\n6\n\x02\x02"),
}


@pytest.mark.parametrize(("name", "source"), GOOD.values(), ids=GOOD)
def test_a_circuit_is_read_whatever_it_is_written_in(name, source):
    """All of these are one AND gate."""
    made = upload(source, name)
    assert made.netlist(0).fanins_A2.tolist() == [[0, 2]]
    assert made.truth_NP[0, :4].tolist() == [0, 0, 0, 1]
    assert (made.exact_N[0], made.inputs_N[0]) == (True, 2)


@pytest.mark.parametrize("kind", ["AND", "NAND", "OR", "NOR", "XOR", "XNOR"])
def test_bench_gates_are_what_they_are_called(kind):
    value = {"AND": all, "OR": any, "XOR": lambda values: sum(values) % 2 == 1}
    made = upload(f"INPUT(a)\nINPUT(b)\nINPUT(c)\nOUTPUT(y)\ny = {kind}(a, b, c)\n".encode(), "m.bench")
    positive = kind.replace("XNOR", "XOR").replace("NAND", "AND").replace("NOR", "OR")
    expected = [value[positive](bits(pattern, 3)) != (kind != positive) for pattern in range(8)]
    assert made.truth_NP[0, :8].tolist() == expected


def test_every_output_is_a_circuit_of_the_inputs_it_needs():
    made = upload(verilog("assign y = a[1:0] + a[2];", "input [2:0] a, output [1:0] y"))
    assert made.inputs_N.tolist() == [2, 3]
    assert made.truth_NP[0, :4].tolist() == [a0 ^ a2 for a2 in (0, 1) for a0 in (0, 1)]
    assert made.truth_NP[1, :8].tolist() == [a1 ^ (a0 & a2) for a2 in (0, 1) for a1 in (0, 1) for a0 in (0, 1)]


def test_a_wide_circuit_has_estimates_and_says_so():
    """The parity of 12 inputs is 1 under half of all patterns, and shows every stuck node there is."""
    made = upload(verilog("assign y = ^a;", "input [11:0] a, output y"))
    assert (made.inputs_N[0], made.exact_N[0]) == (12, False)
    assert made.truth_NP.shape == (1, 2**7)
    np.testing.assert_allclose(made.probability_NG[0, :12], 0.5, atol=0.02)
    np.testing.assert_allclose(made.detectability_NG2[0, :12], 0.5, atol=0.02)


def test_the_estimated_truth_is_the_output_under_the_first_random_patterns():
    made = upload(verilog("assign y = a[0] | (^a & a[11]);", "input [11:0] a, output y"))
    assert made.truth_NP[0].mean() == pytest.approx(0.5 + 0.25 / 2, abs=0.15)


def test_uploads_go_with_generated_circuits_but_have_no_rtl(circuits, options):
    both = concatenate([circuits, uploaded("m.v", verilog("assign y = a & b;"), options, seed=1)])
    assert classes(both, "family", np.arange(len(circuits))).names[both.families_N[-1]] == "uploaded"
    with pytest.raises(DataError, match=f"row {len(circuits)} has no RTL"):
        tokens(both, "rtl")


def test_a_wire_is_a_circuit_without_gates_and_a_buffer_after_mapping(options):
    made = uploaded("m.v", verilog("assign y = b;"), options, seed=1)
    assert (made.ands_N[0], made.depth_N[0], made.area_N[0], made.delay_ps_N[0]) == (0, 0, 2, 40)


BAD = {
    "loop": ("m.v", verilog("wire c = y & a; assign y = ~c | b;"), "a combinational loop through"),
    "undriven": ("m.v", verilog("wire c; assign y = a & c;"), "the net c is used, but nothing drives it"),
    "undriven output": ("m.v", verilog("wire c = a & b;"), "the net y is used, but nothing drives it"),
    "undeclared": ("m.v", verilog("assign y = a & q;"), "the net q is used, but nothing drives it"),
    "high impedance": ("m.v", verilog("assign y = a ? 1'bz : b;"), "nothing drives it|not made of gates"),
    "driven twice": ("m.v", verilog("assign y = a & b; assign y = a | b;"), "the net y is driven more than once"),
    "inputs tied together": ("m.v", verilog("assign y = a; assign y = b;"), "driven more than once"),
    "register": ("m.v", verilog("always @(posedge a) y <= b;", "input a, input b, output reg y"), "the net y is a register"),
    "latch": ("m.v", verilog("always @* if (a) y = b;", "input a, input b, output reg y"), "the net y is a register or latch"),
    "memory": ("m.v", verilog("reg r[0:1]; initial r[0] = 1; assign y = r[a];"), "only combinational"),
    "constant": ("m.v", verilog("assign y = a & ~a;"), "y: the output is always 0"),
    "no output": ("m.v", verilog("", "input a"), "m: 0 output bits; a circuit may have 1 to 256"),
    "too many outputs": ("m.v", verilog("assign y = ~a;", "input [256:0] a, output [256:0] y"), "m: 257 output bits"),
    "inout": ("m.v", verilog("assign y = a & b;", "inout a, input b, output y"), "a: an inout port"),
    "unknown module": ("m.v", verilog("foo u(a, y);"), "foo' referenced in module `m'"),
    "syntax": ("m.v", verilog("assign y = ;"), "syntax error"),
    "no module": ("m.v", b"// nothing\n", "0 top modules"),
    "empty": ("m.v", b"", "0 bytes"),
    "not text": ("m.v", b"\xff\xfe\x00m", "not text"),
    "include": ("m.v", b'`include "/etc/passwd"\n' + verilog("assign y = a;"), "`include in line 1"),
    "include in pieces": ("m.v", b'`define x `include "/etc/passwd"\n`x\n', "`define in line 1"),
    "include in a comment": ("m.v", b'/* \n`include "/etc/passwd" */\n' + verilog("assign y = a;"), "`include in line 2"),
    "system task": ("m.v", verilog('initial $system("touch x"); assign y = a;'), r"\$system in line 1"),
    "reading a file": ("m.v", verilog('reg r[0:3]; initial $readmemh("/etc/passwd", r); assign y = r[a];'), r"\$readmemh"),
    "foreign function": ("m.v", b'import "DPI-C" function integer f(integer x);\n' + verilog("assign y = a;"), "DPI"),
    "blif latch": ("m.blif", b".model m\n.inputs a c\n.outputs y\n.latch a y re c 0\n.end\n", "register or latch"),
    "blif header": ("m.blif", b".modl m\n", "Syntax error in line 1"),
    "blif undriven": ("m.blif", b".model m\n.inputs a\n.outputs y\n.names a q y\n11 1\n.end\n", "the net q is used"),
    "blif of two models": (
        "m.blif",
        b".model a\n.inputs x\n.outputs y\n.names x y\n1 1\n.end\n" + b".model b\n.end\n",
        "2 top modules",
    ),
    "bench header": ("m.bench", b"INPT(a)\n", r"line 1 of the .bench file is 'INPT\(a\)'"),
    "bench register": ("m.bench", b"INPUT(a)\nOUTPUT(y)\ny = DFF(a)\n", "line 3 of the .bench file is a register"),
    "bench gate": ("m.bench", b"INPUT(a)\nOUTPUT(y)\ny = MUX(a, a, a)\n", "line 3 of the .bench file has MUX of 3 fan-ins"),
    "bench inverter of two": ("m.bench", b"INPUT(a)\nOUTPUT(y)\ny = NOT(a, a)\n", "NOT of 2 fan-ins"),
    "bench undriven": ("m.bench", b"INPUT(a)\nOUTPUT(y)\ny = AND(a, q)\n", "the net q is used, but nothing drives it"),
    "bench loop": ("m.bench", b"INPUT(a)\nOUTPUT(y)\nq = AND(a, y)\ny = NOT(q)\n", "a combinational loop through"),
    "bench driven twice": (
        "m.bench",
        b"INPUT(a)\nINPUT(b)\nOUTPUT(y)\ny = AND(a, b)\ny = OR(a, b)\n",
        "y is driven more than once",
    ),
    "aiger header": ("m.aag", b"aag x\n", "five numbers"),
    "aiger negative": ("m.aag", b"aag -3 2 0 1 1\n2\n4\n6\n6 2 4\n", "five numbers"),
    "aiger huge": ("m.aig", b"aig 1000000000 2 0 1 1\n", "five numbers"),
    "aiger cut off": ("m.aag", b"aag 3 2 0 1 1\n2\n", "Line 2"),
    "aiger latch": ("m.aag", b"aag 2 1 1 1 0\n2\n4 2\n4\n", "register or latch"),
    "aiger loop": ("m.aag", b"aag 3 1 0 1 2\n2\n6\n4 6 2\n6 4 2\n", "a combinational loop"),
    "too large": ("m.v", verilog("assign y = a & b;") + b"\n" * SIZE_BYTES, "bytes; choose 1 to"),
    "too many nodes": (
        "m.v",
        verilog("assign y = a * b;", "input [5:0] a, input [5:0] b, output [5:0] y"),
        "y.5.: 1.. nodes; circuits.max_nodes = 96",
    ),
}


@pytest.mark.parametrize(("name", "source", "message"), BAD.values(), ids=BAD)
def test_what_is_no_combinational_circuit_is_refused_with_the_reason(name, source, message):
    with pytest.raises(DataError, match=message):
        upload(source, name)


@pytest.mark.parametrize(
    "name",
    [
        "../m.v",
        "/etc/passwd",
        "a/b.v",
        "..\\m.v",
        "m.v\x00.txt",
        ".v",
        ".bench",
        "m",
        "m.sv",
        "m.vhd",
        "",
        "-m.v",
        "a b.v",
        "a" * 200 + ".v",
    ],
)
def test_a_name_that_leads_elsewhere_or_says_no_format_is_refused(name):
    with pytest.raises(DataError, match="not a file name that is taken"):
        upload(verilog("assign y = a & b;"), name)


def test_an_upload_that_takes_too_long_is_stopped():
    with pytest.raises(DataError, match="synthesis took longer"):
        uploaded("m.v", verilog("assign y = a & b;"), CircuitsOptions(timeout_s=0.01), seed=1)


def test_nothing_of_the_folder_it_ran_in_is_left_or_said(tmp_path, monkeypatch):
    """Messages name the source, not the temporary file it was written to."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(DataError) as error:
        upload(verilog("assign y = ;"))
    assert str(tmp_path) not in str(error.value)
    assert not list(tmp_path.iterdir())
