"""Generators of the files of a build: RTL and HLS."""
