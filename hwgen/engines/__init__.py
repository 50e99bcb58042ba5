"""Engines: what runs steps in hardware, one folder each, behind one protocol (`protocol.Engine`)."""
