"""TensorRT and TensorRT-RTX as one engine room: one code, two flavours (flavour.py has the table).

::

    ONNX -> network -> plan          build.py, network.py, bypass.py    needs no GPU with RTX
    plan -> engine -> session        runtime.py                         needs the GPU of the plan
"""
