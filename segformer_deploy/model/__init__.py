"""The torch side: the published network, the exact deploy form, and its ONNX graph."""
