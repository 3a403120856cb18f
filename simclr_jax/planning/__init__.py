"""A run before it is paid for: compiled for devices that are not there."""
