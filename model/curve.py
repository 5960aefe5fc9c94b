"""The names in a run's curve, for who writes it and who draws it.

The report is drawn by an export too, in the image of the pipelines, hence nothing here or in
model.report loads torch.
"""

CURVE_NAME = "curve.jsonl"
# Before a class name: its own bits/dim on the validation split. TensorBoard groups by the slash.
CLASS_PREFIX = "validation_bpd/"
