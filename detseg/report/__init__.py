"""Reports: from detections, labels and the log of a training to the reasons for the metrics, on one page."""
