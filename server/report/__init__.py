"""What a run, or several, came to: report.html, comparisons, tables for the terminal.

Reads run directories and nothing else; starts no training code.
"""

from .comparison import comparison, print_comparison, write_comparison
from .page import write_report
from .reading import load_record, record_schema

__all__ = ["comparison", "load_record", "print_comparison", "record_schema", "write_comparison", "write_report"]
