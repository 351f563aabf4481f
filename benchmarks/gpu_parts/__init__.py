"""The parts of `gpu.py`: a subject a module, with functions that yield what they measure, each a name and a figure."""
