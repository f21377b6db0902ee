"""Which of two models is better, at what certainty and what cost: exact resampling of images, and chance of seeds."""
