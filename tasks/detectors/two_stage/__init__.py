"""Parts of detectors of two stages and of cascades."""
