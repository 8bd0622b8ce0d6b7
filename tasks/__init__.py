"""Steps of the way from raw data to labels, with the kernels beside them."""
