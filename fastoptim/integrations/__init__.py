"""What brings fastoptim into other libraries: a module for each, imported by name."""
