"""HTTP in front of an engine process. Nothing here imports torch."""
