"""Module names that people have in their scripts."""
