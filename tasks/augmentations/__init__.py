"""Random changes of crops that leave their labels true.

Each is a function of the crop and of a random generator that belongs to it, so
that a crop is reproduced by its seed. Raw data are normalised: strengths of
intensities are in standard deviations of the training data. Labels are moved
where raw data are, by whole voxels or to the nearest one, and never become
floats.
"""
