"""Local objectives: what training and evaluating on one client mean."""
