"""The NVIDIA side: which GPUs are here (`device`, no context), memory and streams (`driver`)."""
