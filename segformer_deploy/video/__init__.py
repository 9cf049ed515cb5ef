"""Frames in, pictures out: video files, folders of frames and single images.

::

    open_source(path) ──> Frame ──> segment ──> class map ──> Overlay.draw ──> open_sink(path)
                                                    └─────────────────────> MaskSink(folder)

`loop.run` drives it. Files are read and written with PyAV (video, sound) and OpenCV
(stills); nothing here prints, and what a reader ought to know lies in `notes`.
"""
