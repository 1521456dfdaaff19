"""The compiled kernels, where this installation has them."""

from types import ModuleType

__all__ = ["MISSING_MEND", "kernel_names", "native_module"]

MISSING_MEND = (
    "the native kernels are not built, so NumPy computes the model (slowly); install a C++20 compiler "
    "(Debian: apt install g++) and run: pip install --force-reinstall --no-deps understudy (a clone: pip install -e .)"
)


def native_module() -> ModuleType | None:
    """The extension module, or None where it was not built."""
    try:
        from understudy.kernels import _native
    except ImportError:
        return None
    return _native


def kernel_names() -> tuple[str, ...]:
    """Instruction sets that this CPU runs, best first; empty where the extension was not built."""
    native = native_module()
    return tuple(native.kernel_names()) if native else ()
