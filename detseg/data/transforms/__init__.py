"""Transforms between the image file and the batch."""
