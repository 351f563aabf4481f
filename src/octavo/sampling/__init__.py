"""How each row is sampled, and what is told of what was sampled. The sampling itself is `Kernels.sample`."""
