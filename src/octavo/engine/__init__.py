"""The step loop, in this process."""
