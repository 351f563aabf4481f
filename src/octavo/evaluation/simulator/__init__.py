"""Requests against a machine that isn't there: the scheduler and the memory that serve requests, over an executor that
only counts the seconds of each step."""
