"""What the hardware is built on, as data: boards (boards/*.yaml) and the families of their chips (boards/families/*.yaml)."""
