"""The one image dataset and task base of all stages that train on images."""
