"""Data modules: one for each task, and the drawn shapes."""
