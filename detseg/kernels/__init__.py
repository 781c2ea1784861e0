"""Faster drop-ins for operations of ``detseg.ops``; each equals its plain form in a test."""
