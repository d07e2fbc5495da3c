"""The machine: which code its CPU runs, whether denormals can be zero, and which compiler built us.

It knows nothing of the engine.
"""

cdef extern from "cpu.h":
    int fo_cpu_v3()
    int fo_cpu_v4()
    int fo_cpu_sve()

cdef extern from "compiler.h":
    const char* FO_COMPILER

can_flush = bool(FO_CAN_FLUSH)
compiler = FO_COMPILER.decode()


def cpu_supports(level):
    """Tell whether this CPU runs the code of an instruction-set level."""
    supported = {"base": True, "v3": fo_cpu_v3(), "v4": fo_cpu_v4(), "sve": fo_cpu_sve()}
    return bool(supported[level])
