"""One small set of circuits for all tests, mapped to four cells whose areas and delays are known."""

from pathlib import Path

import pytest

from fedcosim.clients.data.circuits import Circuits, CircuitsOptions, make

SAMPLES = {"random": 60, "arithmetic": 50, "control": 50, "iscas": 12, "itc": 12, "epfl": 12}

TABLE = 'index_1 ("0.01, 0.1, 1.0"); index_2 ("0.01, 0.1, 1.0");'
ARC = """timing () {{ related_pin : "{pin}"; timing_sense : {sense};
  cell_rise (flat) {{ {table} values ({delay}); }} cell_fall (flat) {{ {table} values ({delay}); }}
  rise_transition (flat) {{ {table} values ({slew}); }} fall_transition (flat) {{ {table} values ({slew}); }} }}"""


def flat(value: float) -> str:
    """Return a table that gives one value at every load and slope."""
    return ", ".join([f'"{value}, {value}, {value}"'] * 3)


def cell(name: str, area: float, delay_ns: float, function: str, pins: str, sense: str = "negative_unate") -> str:
    arcs = "\n".join(ARC.format(pin=pin, sense=sense, table=TABLE, delay=flat(delay_ns), slew=flat(0.01)) for pin in pins)
    inputs = "\n".join(f"pin ({pin}) {{ direction : input; capacitance : 0.001; }}" for pin in pins)
    return f'cell ({name}) {{ area : {area}; {inputs} pin (Y) {{ direction : output; function : "{function}"; {arcs} }} }}'


LIBERTY = f"""library (four) {{
  delay_model : table_lookup; time_unit : "1ns"; capacitive_load_unit (1, pf); voltage_unit : "1V"; current_unit : "1mA";
  lu_table_template (flat) {{ variable_1 : total_output_net_capacitance; variable_2 : input_net_transition; {TABLE} }}
  {cell("INV", 1, 0.010, "!A", "A")}
  {cell("BUF", 2, 0.040, "A", "A", "positive_unate")}
  {cell("NAND2", 2, 0.020, "!(A B)", "AB")}
  {cell("NOR2", 2, 0.030, "!(A+B)", "AB")}
}}
"""


@pytest.fixture(scope="session")
def liberty(tmp_path_factory) -> Path:
    """Return a library of an inverter, a buffer, a NAND and a NOR gate."""
    path = tmp_path_factory.mktemp("cells") / "four.lib"
    path.write_text(LIBERTY)
    return path


@pytest.fixture(scope="session")
def options(liberty) -> CircuitsOptions:
    return CircuitsOptions(samples=SAMPLES, max_inputs=7, liberty=liberty)


@pytest.fixture(scope="session")
def circuits(options, tmp_path_factory) -> Circuits:
    """Return circuits of all families, from an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDCOSIM_CACHE", str(tmp_path_factory.mktemp("circuits")))
        return make(options, seed=1)
