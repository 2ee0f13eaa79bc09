"""The types of GGUF's tensors: their numbers, names, and how many bytes hold how many values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """A type: `num_bytes` hold `num_values` that stand next to each other in a row."""

    name: str
    num_values: int
    num_bytes: int

    @property
    def is_plain(self) -> bool:
        """Whether its values are numbers, one by one."""
        return self.num_values == 1


# By the number that stands in files.
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
}

_REPACKED = (
    "a layout for one processor that the format has given up; use the Q4_0 or IQ4_NL file of the model"
)
_WITHDRAWN = "which the format has given up; use a file that is made today"
_INTERNAL = "which holds activations and never weights"
_NOT_READ = "which is not read here; use a Q8_0 or Q4_K_M file of the model"
# Numbers that have a meaning and are refused: name, and why.
REFUSED_TYPES = {
    4: ("Q4_2", _WITHDRAWN),
    5: ("Q4_3", _WITHDRAWN),
    9: ("Q8_1", _INTERNAL),
    15: ("Q8_K", _INTERNAL),
    31: ("Q4_0_4_4", _REPACKED),
    32: ("Q4_0_4_8", _REPACKED),
    33: ("Q4_0_8_8", _REPACKED),
    36: ("IQ4_NL_4_4", _REPACKED),
    37: ("IQ4_NL_4_8", _REPACKED),
    38: ("IQ4_NL_8_8", _REPACKED),
    41: ("Q1_0", _NOT_READ),
    42: ("Q2_0", _NOT_READ),
}


def refusal(number: int) -> str:
    """Return why a type's number is refused, in words."""
    if number in REFUSED_TYPES:
        name, cause = REFUSED_TYPES[number]
        return f"{name}, {cause}"
    return f"{number}, which no version of the format has that is known here; use a Q8_0 or Q4_K_M file"
