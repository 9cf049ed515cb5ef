"""The ONNX side: one file per rewrite or check.

A rewrite opens with ``before -> after`` and why it is exact.
"""
