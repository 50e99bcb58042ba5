"""Static timing of netlists, register to register: how many LUTs a path has, and how long it takes by a stated delay model."""
