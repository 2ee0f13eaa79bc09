"""Prints the schemas that pydantic writes, a line per construct: python pydantic_constructs.py"""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import re
import uuid
from collections import deque
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

from pydantic import (
    UUID4,
    AnyUrl,
    Base64Bytes,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    FilePath,
    Json,
    NaiveDatetime,
    PastDate,
    RootModel,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    conlist,
    conset,
    dataclasses,
)
from typing_extensions import TypedDict

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Only(enum.Enum):
    ONE = "one"


class Point(BaseModel):
    x: float
    y: float = 0.0


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: str


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: str


class Typed(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int]
    a: str


class Node(BaseModel):
    value: str
    children: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    good: bool


class Box(BaseModel, Generic[T]):
    inside: T


class Pair(NamedTuple):
    a: int
    b: str


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


@dataclasses.dataclass
class Dated:
    day: datetime.date


class Aliased(BaseModel):
    inner: int = Field(alias="in-ner", description="d", examples=[1], gt=0)


class Outer(BaseModel):
    point: Point = Field(description="where")
    other: Point | None = None
    colour: Colour = Colour.RED


CONSTRUCTS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "none": None,
    "any": Any,
    "bytes": bytes,
    "decimal": decimal.Decimal,
    "decimal_places": Annotated[decimal.Decimal, Field(max_digits=5, decimal_places=2)],
    "complex": complex,
    "date": datetime.date,
    "time": datetime.time,
    "datetime": datetime.datetime,
    "timedelta": datetime.timedelta,
    "naive": NaiveDatetime,
    "past": PastDate,
    "uuid": uuid.UUID,
    "uuid4": UUID4,
    "url": AnyUrl,
    "ipv4": ipaddress.IPv4Address,
    "ipv6network": ipaddress.IPv6Network,
    "ipv4interface": ipaddress.IPv4Interface,
    "path": pathlib.Path,
    "file": FilePath,
    "secret": SecretStr,
    "base64": Base64Bytes,
    "bytesize": ByteSize,
    "json": Json[list[int]],
    "pattern_type": re.Pattern,
    "enum": Colour,
    "int_enum": Level,
    "single_enum": Only,
    "literal": Literal["a", 1],
    "list": list[int],
    "bare_list": list,
    "conlist": conlist(int, min_length=1, max_length=3),
    "set": set[str],
    "conset": conset(int, min_length=1),
    "frozenset": frozenset[int],
    "deque": deque[int],
    "tuple": tuple[int, str],
    "tuple_many": tuple[int, ...],
    "empty_tuple": tuple[()],
    "named_tuple": Pair,
    "dict": dict[str, int],
    "bare_dict": dict,
    "dict_int_keys": dict[int, str],
    "dict_enum_keys": dict[Colour, int],
    "dict_literal_keys": dict[Literal["a", "b"], int],
    "dict_pattern_keys": dict[Annotated[str, Field(pattern="^x_")], int],
    "dict_long_keys": dict[Annotated[str, Field(min_length=2)], int],
    "dict_uuid_keys": dict[uuid.UUID, int],
    "dict_lengths": Annotated[dict[str, int], Field(min_length=1, max_length=3)],
    "optional": int | None,
    "union": int | str,
    "union_models": Cat | Dog,
    "discriminated": Annotated[Cat | Dog, Field(discriminator="kind")],
    "model": Point,
    "closed": Closed,
    "open": Open,
    "typed_extra": Typed,
    "recursive": Node,
    "nested": Outer,
    "generic": Box[Point],
    "root": RootModel[list[Point]],
    "typed_dict": Movie,
    "dataclass": Dated,
    "alias": Aliased,
    "list_of_discriminated": list[Annotated[Cat | Dog, Field(discriminator="kind")]],
    "bounds": Annotated[float, Field(ge=0, lt=1)],
    "step": Annotated[int, Field(multiple_of=5)],
    "text": Annotated[str, StringConstraints(min_length=1, max_length=9, pattern=r"^[a-z]\w*$")],
    "strict": Annotated[int, Field(strict=True)],
}


def main() -> None:
    for name, construct in CONSTRUCTS.items():
        seen: list[str] = []
        for mode in ("validation", "serialization"):
            text = json.dumps(TypeAdapter(construct).json_schema(mode=mode))
            if text not in seen:
                print(json.dumps({"name": f"pydantic {name}, {mode}", "schema": json.loads(text)}))
            seen.append(text)


if __name__ == "__main__":
    main()
