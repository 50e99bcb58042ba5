"""Recorded networks for bench/replay.py: files that no class of hwgen and no BLAS has a part in, and what is digested of them.

    form.py      the files: what a network looks like in them, reading and writing
    adapter.py   the files -> today's classes of hwgen -> bytes; the only module to edit when classes change
    digests.py   bytes -> digests; the normalised text of generated C++
    record.py    writes the files, by the code of the day they were written; draw.py and edits.py make the random networks
"""
