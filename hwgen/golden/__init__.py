"""Golden models: `integer_model`, what the hardware must compute; what a float network computes is in `hwgen.graph.evaluate`."""
