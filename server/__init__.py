"""Runs experiments and tells people about them."""
