"""Counts, prices and their presentation: pure functions of a run, a graph and a profile."""
