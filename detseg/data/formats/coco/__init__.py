"""COCO: boxes, masks, and semantic masks from instances or panoptic segments."""
