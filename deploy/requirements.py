"""Print what pyproject.toml asks for, with the extras that are named: `python requirements.py postgresql tracking`."""

import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = (project["optional-dependencies"][name] for name in sys.argv[1:])
print(*project["dependencies"], *(line for extra in extras for line in extra), sep="\n")
