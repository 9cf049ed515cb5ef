"""What needs several rooms at once: export with its own check, build with golden frames, demo."""
