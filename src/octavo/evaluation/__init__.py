"""Workloads, measurements and the paper's figures."""
