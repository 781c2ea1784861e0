"""Evaluation reports: one page that explains the metrics by detections, labels and the training log."""
