"""What heads are taught, computed from the labels of a crop alone, after its augmentation.

Labels are int32: positive numbers are objects, 0 is unknown, and `BACKGROUND`
is known to belong to no object. Nothing is taught of unknown voxels, nor of
edges to them; beside them, no border is taught either.
"""
