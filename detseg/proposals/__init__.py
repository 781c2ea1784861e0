"""Boxes that may hold an object, whatever its class: how they are found, and the files that they are kept in."""
