"""What models are made of: modules that hold parameters, split them over ranks, and call the kernels."""
