"""Triton kernels for the paged layout, and the backend that runs models on them."""
