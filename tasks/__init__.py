"""Tasks: models, losses, metrics and command lines for detection and segmentation."""
