"""Archives: many videos cut into chunks, segmented by many workers, each frame exactly once."""
