"""Golden models: `float_model` (what the network computes) and `integer_model` (what the hardware must compute)."""
