"""On which processes a step runs. Importing this package loads no torch; the model runner and the local executor do."""
