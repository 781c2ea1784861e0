"""Pascal VOC: boxes, masks and semantic masks."""
