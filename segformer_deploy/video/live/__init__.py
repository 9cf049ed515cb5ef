"""Sources that do not wait: cameras and streams, of which only the newest frame counts.

::

    Grabber (camera, RTSP, GStreamer, stdin, streets)
       └─ its own thread ──> Newest (one frame; what is overwritten is counted) ──> the run

A file waits until its next frame is asked for. A camera does not: what nobody takes in time is
dropped, so that what is shown is never older than it must be.
"""
