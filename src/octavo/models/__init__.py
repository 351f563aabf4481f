"""The architectures, what their configs say, and how their weights are loaded."""
