"""Passes: functions from a network to a network that computes the same words. One file a pass; the engines choose and order them."""
