"""The machine: which code its CPU runs, whether denormals can be zero, and which compiler built us.

It knows nothing of the engine.
"""

cdef extern from "cpu.h":
    int fo_cpu_v3()
    int fo_cpu_v4()

cdef extern from "compiler.h":
    const char* FO_COMPILER

can_flush = bool(FO_CAN_FLUSH)
compiler = FO_COMPILER.decode()


def cpu_supports(level):
    """Tell whether this CPU runs the code of an instruction-set level."""
    return {"base": True, "v3": bool(fo_cpu_v3()), "v4": bool(fo_cpu_v4())}[level]
