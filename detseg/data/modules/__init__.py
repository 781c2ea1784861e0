"""Data modules: one for each task, and the synthetic shapes."""
