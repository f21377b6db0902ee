"""Whole segmentors in MMSegmentation's files: the config beside the weights, and what it asks of our parts."""
