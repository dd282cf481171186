"""Which projects exist and who may do what in them."""
