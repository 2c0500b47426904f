"""Options of XLA with which it compiles programs for a CPU in less time, for short trainings."""

import functools

import jax

# With these, LLVM optimises less, and XLA generates loops in its older way. Steps of `configs/tiny.py` are no slower
# then, but those of larger networks take up to 1.26 times as long (benchmarks/RESULTS.md, "The whole run of
# configs/tiny.py").
_OPTIONS = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


@functools.cache
def options() -> dict[str, bool | int]:
    """Returns the value of `jax.jit`'s argument `compiler_options`: {} for other devices than a CPU.

    Options that this version of XLA does not know are left out. Without them, a program only takes longer to compile.
    """
    return {name: value for name, value in _OPTIONS.items() if jax.default_backend() == "cpu" and _known(name, value)}


def _known(name: str, value: bool | int) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True
