"""Frames -> ranges: what an INT8 grid must hold, and what FP16 cannot.

Workstation side: it runs graphs with ONNX Runtime and needs onnx. Its result is a file, never an
import: `Ranges`, as JSON. Frames enter the network through the runtime's own resize.
"""
