"""What one client does: its data, its model, its local training, its state between rounds."""
