"""The roofline model: time of each operator is the larger of what its arithmetic and its memory traffic need."""
