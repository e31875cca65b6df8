"""A target: what the compiler must know about a machine, as a frozen record that refuses to be made wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

from fxquant.errors import TargetError

Form = Literal["hosted", "static", "shared", "sources"]


class _Named(type):
    """A record whose fields are named wrongly, or left out, is refused as one with wrong values is: by TargetError."""

    def __call__(cls, *values: Any, **named: Any) -> Any:
        """Make the record. Raises TargetError for fields that are missing, unknown, or given twice."""
        known = fields(cls)  # type: ignore[arg-type]  # its subclasses are dataclasses
        if problems := list(_wrong_names(known, len(values), named)):
            raise TargetError(f"a {cls.__name__.lower()} cannot be:\n" + "\n".join(f"  {p}" for p in problems))
        return super().__call__(*values, **named)


def _wrong_names(known: tuple[Field[Any], ...], count: int, named: Mapping[str, Any]) -> Iterator[str]:
    names = [one.name for one in known]
    if count > len(names):
        yield f"there are {count} values for {len(names)} fields: {', '.join(names)}"
    for name in named:
        yield from _one_of("a field", name, names)
        if name in names[:count]:
            yield f"{name} is given twice"
    for one in known[count:]:
        if one.default is MISSING and one.default_factory is MISSING and one.name not in named:
            yield f"{one.name} is missing"


@dataclass(frozen=True)
class Toolchain(metaclass=_Named):
    """Programs that link and emulate code for a machine; only `.so` files, emulation and tests need them.

    `compiler` is a gcc, `flags` its options for this machine, `emulator` the QEMU command that the program's path is
    appended to, `machine` the start-up code for a machine without an OS ("" on Linux), `debian` the packages. Where
    QEMU has the very core only on a board of little memory, `core` is the command of that board, and `emulator` that of
    a roomy one whose core executes the same instructions: programs that fit the little one are run on both.
    """

    compiler: str
    flags: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()
    machine: Literal["", "cortex-m", "riscv"] = ""
    debian: tuple[str, ...] = ()
    core: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field. Raises TargetError."""
        problems: list[str] = (
            [] if isinstance(self.compiler, str) else [f"compiler is {self.compiler!r}: the name of a program"]
        )
        problems += _one_of("machine", self.machine, ("", "cortex-m", "riscv"))
        for name in ("flags", "emulator", "debian", "core"):
            problems += _words(name, getattr(self, name))
        if problems:
            raise TargetError("the toolchain cannot be:\n" + "\n".join(f"  {p}" for p in problems))


@dataclass(frozen=True)
class InstructionSet:
    """Kernels that there are: machines and forms of code they are for, and what LLVM must be told for them.

    `s8_bias` is what they add to 8-bit activations, `has_borders` tells that they want an image's padding around it in
    memory, and test for no edge. One of `cpus` has the instructions, and so has what names one of
    `attributes`; where both are empty, every CPU of the machine has them. `lacking` are CPUs that are known not to.
    """

    machines: tuple[str, ...]
    forms: tuple[Form, ...] = ("static", "shared")
    s8_bias: int = 0
    cpus: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    has_borders: bool = False


@dataclass(frozen=True)
class MemoryForm:
    """How a target's values lie in memory: what lowering must know of it, beside which kernels there are.

    `s8_bias` is added to 8-bit activations, `has_borders`: padding lies around images, `channels_last`: so do callers
    hold images, `has_runtime`: the code's caller can be told of what went wrong.
    """

    s8_bias: int = 0
    has_borders: bool = False
    channels_last: bool = False
    has_runtime: bool = False


# Machines as `uname -m` says them ("arm": without an OS), and how the names that LLVM has for them begin.
MACHINES = {"x86_64": ("x86_64",), "aarch64": ("aarch64", "arm64"), "armv7l": ("armv7", "thumbv7"),
            "arm": ("arm", "thumb"), "riscv32": ("riscv32",), "riscv64": ("riscv64",), "any": ("",)}  # fmt: skip
_LINUX: tuple[Form, ...] = ("hosted", "static", "shared")
_OLD_X86 = ("", "generic", "x86-64", "x86-64-v2")
_M_DSP = ("cortex-m4", "cortex-m7", "cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85")
_RVV = ("spacemit-x60", "sifive-x280", "sifive-x390", "sifive-p670", "xiangshan-kunminghu", "veyron-v1")
ISAS = {
    "avx2": InstructionSet(("x86_64",), ("hosted",), 128, (), ("+avx2",), _OLD_X86, True),
    "avxvnni": InstructionSet(
        ("x86_64",), ("hosted",), 128, (), ("+avxvnni",), (*_OLD_X86, "x86-64-v3", "x86-64-v4"), True
    ),
    "avx512vnni": InstructionSet(("x86_64",), ("hosted",), 128, (), ("+avx512vnni",), (*_OLD_X86, "x86-64-v3"), True),
    "scalar": InstructionSet(tuple(MACHINES), ("static", "shared", "sources")),
    "dsp": InstructionSet(("arm",), cpus=_M_DSP, attributes=("+dsp",)),
    "mve": InstructionSet(("arm",), cpus=("cortex-m52", "cortex-m55", "cortex-m85"), attributes=("+mve", "+mve.fp")),
    "neon": InstructionSet(("aarch64",), _LINUX),
    "dotprod": InstructionSet(("aarch64",), _LINUX, attributes=("+dotprod",), lacking=("", "generic", "cortex-a53")),
    "i8mm": InstructionSet(("aarch64",), _LINUX, attributes=("+i8mm",), lacking=("", "generic", "cortex-a53")),
    "neon32": InstructionSet(("armv7l", "arm")),
    "rvv": InstructionSet(("riscv32", "riscv64"), cpus=_RVV, attributes=("+v",)),
}
_TVM_KEYS = ("kind", "mtriple", "mcpu", "mattr", "mabi", "mfloat-abi", "vector-width", "cl-opt", "opt-level")


@dataclass(frozen=True)
class Target(metaclass=_Named):
    """One kind of machine.

    `isa` names the kernels' instruction set, `tvm` is TVM's target dictionary, `cpu_features` what the CPU must have
    (as in /proc/cpuinfo), `s8_bias` what memory adds to 8-bit activations (128: they are kept unsigned), `recipe` the
    name of the recipe that suits it. `form` says what is made of a model: a `.fxq` artifact that fxquant's runtime runs
    ("hosted"), or code with a plain C interface and no runtime, as a static library, a shared library or C sources.

    Raises TargetError, naming the fields and what they take, for what cannot be: see `ISAS`. Names of CPUs and features
    are LLVM's, and checked when code is generated.
    """

    name: str
    description: str
    machine: str
    isa: str
    tvm: Mapping[str, Any] = field(hash=False)
    cpu_features: tuple[str, ...] = ()
    s8_bias: int = 0
    recipe: str = "default"
    form: Form = "hosted"
    toolchain: Toolchain | None = None

    def __post_init__(self) -> None:
        """Check every field, and that they fit together."""
        if problems := list(_wrong_values(self)) or list(_misfits(self)):
            raise TargetError(f"the target {self.name!r} cannot be:\n" + "\n".join(f"  {p}" for p in problems))

    @property
    def hosted(self) -> Target:
        """The same machine with fxquant's runtime. Raises TargetError where there is none for it."""
        if "hosted" not in ISAS[self.isa].forms:
            raise TargetError(
                f"{self.name} code runs without fxquant's runtime: use fxquant.export, which writes a folder"
            )
        return self if self.form == "hosted" else replace(self, form="hosted")

    @property
    def memory(self) -> MemoryForm:
        """How its values lie in memory: as its kernels want them, and its callers."""
        hosted = self.form == "hosted"
        return MemoryForm(self.s8_bias, ISAS[self.isa].has_borders, channels_last=not hosted, has_runtime=hosted)

    def to_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self)


def _wrong_values(target: Target) -> Iterator[str]:
    """What is wrong with each field by itself."""
    if not isinstance(target.name, str) or not target.name.strip():
        yield f"name is {target.name!r}: a word"
    for name in ("description", "recipe"):
        yield from _text(name, getattr(target, name))
    yield from _one_of("form", target.form, get_args(Form))
    yield from _one_of("machine", target.machine, MACHINES)
    yield from _one_of("isa", target.isa, ISAS)
    if not isinstance(target.tvm, Mapping):
        yield f"tvm is a {type(target.tvm).__name__}: a dictionary, {{'kind': 'llvm', 'mtriple': ..., 'mcpu': ...}}"
        return
    yield from _one_of("tvm's 'kind'", target.tvm.get("kind"), ("llvm", "c"))
    for key in target.tvm:
        yield from _one_of("a key of tvm", key, _TVM_KEYS)
    for key in ("mtriple", "mcpu"):
        yield from _text(f"tvm's {key!r}", target.tvm.get(key, ""))
    yield from _words("cpu_features", target.cpu_features)
    yield from _words("tvm's 'mattr'", target.tvm.get("mattr", ()))
    if target.toolchain is not None and not isinstance(target.toolchain, Toolchain):
        yield f"toolchain is a {type(target.toolchain).__name__}: a fxquant.target.Toolchain, or None"


def _text(name: str, found: Any) -> Iterator[str]:
    if not isinstance(found, str):
        yield f"{name} is {found!r}: text"


def _words(name: str, found: Any) -> Iterator[str]:
    if not isinstance(found, tuple | list) or not all(isinstance(one, str) for one in found):
        yield f"{name} is {found!r}: names, each by itself"


def _one_of(name: str, found: Any, known: Any) -> Iterator[str]:
    if found not in tuple(known):
        near = get_close_matches(str(found), list(known), 1)
        yield f"{name} is {found!r}: one of {', '.join(known)}" + (f". Did you mean {near[0]!r}?" if near else "")


def _misfits(target: Target) -> Iterator[str]:
    """What does not fit together, in a target each of whose fields could be."""
    isa, kind, triple = ISAS[target.isa], target.tvm["kind"], str(target.tvm.get("mtriple", ""))
    if target.machine not in isa.machines:
        yield f"isa {target.isa!r} is for the machine {' or '.join(isa.machines)}, and machine is {target.machine!r}"
    if target.form not in isa.forms:
        fitting = ", ".join(name for name, each in ISAS.items() if target.form in each.forms)
        yield f"isa {target.isa!r} gives {' or '.join(isa.forms)} code, and form is {target.form!r} (isa: {fitting})"
    if target.s8_bias != isa.s8_bias:
        yield f"isa {target.isa!r} keeps activations with s8_bias {isa.s8_bias}, and s8_bias is {target.s8_bias!r}"
    if (kind == "c") != (target.form == "sources"):
        yield f"tvm's kind 'c' is for the form 'sources' and only that: kind is {kind!r}, form is {target.form!r}"
    if kind == "llvm" and not triple.startswith(MACHINES[target.machine]):
        begins = " or ".join(repr(start) for start in MACHINES[target.machine])
        yield f"tvm's mtriple is {triple!r}, and that of the machine {target.machine!r} begins with {begins}"
    if kind == "llvm" and triple.count("-") < 2:
        yield f"tvm's mtriple is {triple!r}: machine, vendor or system, and ABI, such as x86_64-linux-gnu"
    yield from _missing_instructions(target, isa)


def _missing_instructions(target: Target, isa: InstructionSet) -> Iterator[str]:
    cpu = str(target.tvm.get("mcpu", ""))
    if set(isa.attributes) & set(target.tvm.get("mattr", ())):
        return
    if (isa.cpus and cpu not in isa.cpus) or cpu in isa.lacking:
        one_of = f"tvm's mcpu {' or '.join(isa.cpus)}, or " if isa.cpus else "another mcpu, or "
        yield (
            f"isa {target.isa!r} has instructions that the mcpu {cpu!r} lacks: "
            f"{one_of}{isa.attributes[0]!r} among tvm's 'mattr'"
        )
