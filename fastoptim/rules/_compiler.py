"""The compiler: from a program of LLVM's to addresses, by llvmlite, if that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ._cache import kept
from ._formula import Formula
from ._llvm import TYPES, Target, program, target_of

EXTRA = 'python -m pip install "fastoptim[rules]"'

_engines: list[Any] = []  # what owns the memory of compiled loops, which nobody may free


@cache
def llvm() -> Any:
    """Return LLVM, made ready for this processor, or None if it is not installed."""
    try:
        import llvmlite.binding as binding
    except ImportError:
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


class CompiledLoop:
    """The loops of a formula, of which each level is compiled when it is first needed."""

    def __init__(self, name: str, formula: Formula, states: int, scalars: int) -> None:
        self.name, self._formula, self._states, self._scalars = name, formula, states, scalars
        self._found: dict[str, dict[str, int]] = {}

    def address(self, level: str, real: str) -> int:
        """Return the address of the loop for a type, named as NumPy names it, at a level."""
        # Two threads may both compile it. A lock would hang a child of fork(), if it was held then.
        if level not in self._found:
            self._found[level] = addresses(*self.program(level))
        return self._found[level][real]

    def program(self, level: str) -> tuple[str, Target]:
        """Return the program and the target at a level."""
        target = target_of(level)
        return program(self._formula, self._states, self._scalars, target.width), target


def addresses(text: str, target: Target) -> dict[str, int]:
    """Return the addresses of a program's functions, by the names of types."""
    binding = llvm()
    machine = machine_of(target)
    source = header(target) + text
    code = kept(source, lambda: machine_code(source, target))
    empty = binding.parse_assembly("", binding.create_context())
    engine = binding.create_mcjit_compiler(empty, machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return {name: engine.get_function_address(name) for name in TYPES}


def header(target: Target) -> str:
    """Return the first lines of a program: all that decides, beside it, how it is compiled."""
    import llvmlite

    binding = llvm()
    triple = binding.get_process_triple()
    layout = machine_of(target).target_data
    return (
        f"; llvmlite {llvmlite.__version__}, LLVM {binding.llvm_version_info}, {target}\n"
        f'target triple = "{triple}"\ntarget datalayout = "{layout}"\n'
    )


def machine_of(target: Target) -> Any:
    """Return what LLVM compiles for."""
    binding = llvm()
    found = binding.Target.from_triple(binding.get_process_triple())
    options: Mapping[str, Any] = {"opt": 3, "reloc": "pic", "codemodel": "jitdefault", "jit": True}
    return found.create_target_machine(cpu=target.cpu, features=target.features, **options)


def optimised(source: str, target: Target) -> tuple[Any, Any]:
    """Return a program as LLVM has optimised it, and what it was optimised for."""
    binding = llvm()
    machine = machine_of(target)
    module = binding.parse_assembly(source, binding.create_context())
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


def machine_code(source: str, target: Target) -> bytes:
    """Return the machine code of a program, as an object file."""
    module, machine = optimised(source, target)
    return bytes(machine.emit_object(module))
