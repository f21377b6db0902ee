"""What falls away between the files and the loss, counted per cause, before a run starts."""
