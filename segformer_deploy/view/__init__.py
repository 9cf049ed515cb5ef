"""The live web page: look at a board that has no screen, from a phone or a desk.

::

    run ──> View.offer(Shown) ──> Channel (newest frame of each stream; no lock, no copy)
                                     └─ Encoder, one thread, only while somebody waits
                                          ├─> page lane  (JPEG + class map) ──> GET /stream
                                          └─> mjpeg lane (drawn overlay)    ──> GET /stream.mjpg
            └─> Recorder (one thread while recording) ──> recordings/….mp4

Each viewer has a thread that sends the newest encoded frame and skips what it missed, so ten
viewers cost one encoding, and a slow one slows nobody. Only the standard library serves.
"""
