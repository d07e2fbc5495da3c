"""The place at which pickles of fastoptim 0.1 look for two classes.

A pickled optimizer names the classes of its parts by module. Nothing else imports this.
"""

from ._containers import Container
from ._groups import ParamGroup

__all__ = ["Container", "ParamGroup"]
