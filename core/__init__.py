"""What every part stands on: errors, options and their registries, records of arrays, random streams."""
