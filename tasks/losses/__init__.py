"""Losses: what training makes small, with unknown voxels and edges left out."""
