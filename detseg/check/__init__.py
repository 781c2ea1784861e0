"""Checks of a whole data set before training: statistics, issues, a repaired copy and an HTML page."""
