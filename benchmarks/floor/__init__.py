"""How little memory SegFormer runs in, and what it is still worth there.

The paper leaves open whether its smallest network "can work well in a chip of edge device with
only 100k memory". `run.py` answers with a curve of memory against mIoU; every point of the
curve is a run of `executor.py`, whose activations are 8-bit numbers in one arena of fixed size.

    arena      the one buffer; too small is an error, and guards prove nothing wrote outside
    schedule   which buffer is alive when: the arena's bytes by arithmetic, without a run
    bound      what no schedule of a stated kind can go below
    network    weights as NumPy arrays (the only user of torch)
    grids      8-bit grids of activations, and the two kinds of numbers an executor computes with
    prepare    weights and grids -> the constants that lie in flash
    layers     kernels on a chunk of tokens      rows      a stage, row by row
    head       decode head and class map, row by row
    executor   all of it for a frame             calibrate frames -> grids
    score      mIoU, bootstrap, priors           chart     the plot
"""
