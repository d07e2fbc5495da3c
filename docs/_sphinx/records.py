"""Figures of the performance page."""
def setup(app):
    return {}
