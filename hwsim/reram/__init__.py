"""ReRAM crossbars that multiply bit by bit, and the A/D conversions they need (arXiv:2402.06164)."""
