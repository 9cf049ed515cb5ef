"""The machine around us: processor, memory, board, libraries, video; read, never guessed.

Files are read below a root folder, so that a test can show a Jetson's tree to a laptop. What
cannot be told is None, and `unknown` says why; nothing here raises. Only the standard library
is needed: each library that is asked after is asked inside the function that does so.
"""
