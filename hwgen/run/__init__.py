"""What runs a build: simulations of both engines, comparison with the integer model, the timeline of what happened."""
