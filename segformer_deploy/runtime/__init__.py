"""Frame in, class map out, on the device: NumPy, OpenCV and one engine library, no torch, no onnx.

`segmenter` joins the stages; `preprocess` (with `resample`) makes the network's input;
`class_map` (with `interpolation`) turns logits into classes at the frame's resolution.
`native` loads the compiled kernels; where they are absent `class_map_numpy` and
`resample` compute the same bits.
"""
