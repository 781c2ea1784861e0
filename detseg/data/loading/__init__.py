"""Collation, samplers and repeat factors."""
