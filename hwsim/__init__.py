"""Hardware simulators: what a piece of work costs on a device. They know nothing of federated learning."""
