"""The network in our own compiled code: the deploy form on a CPU, with nothing but arithmetic.

Tokens stay channels last from the first convolution to the logits. LayerNorm, bias, residual,
GELU, softmax and resize happen while a tile of rows lies in the cache, so no layout is ever
changed and no map at four times the width is ever stored. It reads the ONNX file itself and
needs no engine library.
"""
