"""The networks that SegFormer's Table 2 compares with, and how `benchmarks/rivals.py` times them.

Written from the papers that describe them; sizes as mmsegmentation's configurations state them.
"""
