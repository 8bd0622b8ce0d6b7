"""Networks that turn raw data into affinities or distances, and their model directories."""
