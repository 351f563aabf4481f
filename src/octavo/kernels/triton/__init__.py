"""Triton kernels for the paged layout, and the backend that runs models on them.

What it lacks still: int8 and fp8 caches.
"""
