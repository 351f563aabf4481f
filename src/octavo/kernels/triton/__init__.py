"""Triton kernels for the paged layout. No engine uses them yet: they are no backend in the registry.

What there is: attention over ragged batches, the write of new K and V, block copies, RMS norm, activation-and-multiply.
What a backend lacks still: the other operations of `kernels.interface`, int8 and fp8 caches, sampling, CUDA graphs.
"""
