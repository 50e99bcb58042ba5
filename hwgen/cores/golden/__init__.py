"""What each core computes, in numpy: a file a core, which goes as it is, with `numerics`, into every folder of that core.

A file has ``cases(p, rng)`` (arrays to try, by what is special about them), ``golden(p, *arrays)`` (the words of the core),
``reference(p, *arrays)`` (the same in floating point), ``real(p, y)`` (words as floating point), ``streams(p, *arrays)`` and ``results(p, y)``
(arrays as words of the ports); ``p`` has the core's parameters.
"""
