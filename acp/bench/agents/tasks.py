"""The ten tasks: their files, what the user says, what the model answers, and when they count as done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bench.agents.script import Call, Reply, Script


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run of a task left behind."""

    folder: Path
    text: str  # of all of the agent's messages
    stops: tuple[str, ...]  # the stop reason of each turn
    longest_prompt: int  # tokens
    hung_up: bool  # the agent closed its connection while the model was answering
    history: str  # the last request's messages


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    prompts: tuple[str, ...]
    script: Script
    done: Callable[[Seen], bool]
    files: dict[str, str] = field(default_factory=dict)
    cancelled: bool = False  # the user cancels the turn at its first words
    resumed: bool = False  # the agent starts anew between the turns, and the session is loaded


def read(path: str) -> Call:
    return Call("read", {"path": f"{{folder}}/{path}"})


def edit(path: str, old: str, new: str) -> Call:
    return Call("edit", {"path": f"{{folder}}/{path}", "old": old, "new": new})


def write(path: str, content: str) -> Call:
    return Call("write", {"path": f"{{folder}}/{path}", "content": content})


def shell(command: str) -> Call:
    return Call("shell", {"command": command})


def calls(*made: Call, refusals: int = 0) -> Reply:
    return Reply(calls=made, refusals=refusals)


def script(*turns: Iterable[Reply]) -> Script:
    return Script(tuple(tuple(turn) for turn in turns))


def ended(seen: Seen) -> bool:
    return bool(seen.stops) and set(seen.stops) == {"end_turn"}


def holds(path: str, text: str) -> Callable[[Seen], bool]:
    """Return whether a file has exactly this text at the end."""
    return lambda seen: ended(seen) and (seen.folder / path).read_text() == text


ADDER = "def add(a, b):\n    return a - b\n"
TEST = "from adder import add\n\nassert add(2, 3) == 5, add(2, 3)\nprint('all passed')\n"
NAMED = {
    "shop/price.py": "def total_price(items):\n    return sum(item.price for item in items)\n",
    "shop/cart.py": "from shop.price import total_price\n\n\ndef show(cart):\n    return total_price(cart)\n",
    "shop/bill.py": "from shop.price import total_price\n\n\ndef bill(cart):\n    total_price(cart)\n",
}
RENAMED = {path: text.replace("total_price", "sum_of_prices") for path, text in NAMED.items()}
PAGES = {
    f"notes/{n}.md": f"# Note {n}\n\n"
    + f"The number of this note is {n}, its word is word-{n * 7}. " * 6
    + "\n"
    for n in range(1, 6)
}


def _renamed(seen: Seen) -> bool:
    return ended(seen) and all((seen.folder / path).read_text() == text for path, text in RENAMED.items())


def _cancelled(seen: Seen) -> bool:
    return seen.stops == ("cancelled",) and seen.hung_up


TASKS = (
    Task(
        "read",
        ("Which word does secret.txt hold?",),
        script([calls(read("secret.txt")), Reply("The word is", found=r"plum-\d+")]),
        lambda seen: ended(seen) and "plum-4711" in seen.text,
        {"secret.txt": "The word of the day is plum-4711.\n"},
    ),
    Task(
        "edit",
        ("Set the port in app.ini to 8443.",),
        script(
            [calls(read("app.ini")), calls(edit("app.ini", "port = 80", "port = 8443")), Reply("Changed.")]
        ),
        holds("app.ini", "[server]\nhost = localhost\nport = 8443\n"),
        {"app.ini": "[server]\nhost = localhost\nport = 80\n"},
    ),
    Task(
        "create",
        ("Write hello.py, which greets the world.",),
        script([calls(write("hello.py", "print('hello, world')\n")), Reply("hello.py is there.")]),
        holds("hello.py", "print('hello, world')\n"),
    ),
    Task(
        "rename",
        ("Rename total_price to sum_of_prices everywhere.",),
        script(
            [
                calls(shell("grep -rn total_price {folder}/shop --include=*.py")),
                calls(*(read(path) for path in NAMED)),
                *(calls(edit(path, NAMED[path].rstrip("\n"), RENAMED[path].rstrip("\n"))) for path in NAMED),
                Reply("Renamed in three files."),
            ]
        ),
        _renamed,
        NAMED,
    ),
    Task(
        "fix",
        ("The test fails. Make it pass.",),
        script(
            [
                calls(shell("cd {folder} && python3 test_adder.py")),
                calls(read("adder.py")),
                calls(edit("adder.py", "a - b", "a + b")),
                calls(shell("cd {folder} && python3 test_adder.py")),
                Reply("Now:", found="all passed"),
            ]
        ),
        lambda seen: holds("adder.py", ADDER.replace("-", "+"))(seen) and "all passed" in seen.text,
        {"adder.py": ADDER, "test_adder.py": TEST},
    ),
    Task(
        "long_output",
        ("Run the build and tell me how it ends.",),
        script(
            [
                calls(shell("seq -f 'compiling unit %g of many, nothing to see here' 60000; echo BUILD-OK")),
                Reply("The build ends with", found="BUILD-OK"),
            ]
        ),
        lambda seen: ended(seen) and "BUILD-OK" in seen.text and seen.longest_prompt < 100_000,
    ),
    Task(
        "cancel",
        ("Tell me a long story.",),
        script([Reply("Once upon a time there was a very long story. " * 400, pieces=400, gap_s=0.1)]),
        _cancelled,
        cancelled=True,
    ),
    Task(
        "resume",
        ("Remember the number 90125.", "Which number was it?"),
        script([Reply("I keep 90125 in mind.")], [Reply("It was 90125.")]),
        lambda seen: ended(seen) and len(seen.stops) == 2 and "keep 90125 in mind" in seen.history,
        resumed=True,
    ),
    Task(
        "recover",
        ("Set the level in log.ini to debug.",),
        script(
            [
                calls(read("log.ini"), refusals=1),
                calls(edit("log.ini", "level: info", "level: debug")),
                calls(edit("log.ini", "level = info", "level = debug")),
                Reply("Changed, at the second try."),
            ]
        ),
        holds("log.ini", "[log]\nlevel = debug\n"),
        {"log.ini": "[log]\nlevel = info\n"},
    ),
    Task(
        "talk",
        tuple(f"What is the word of notes/{n}.md?" for n in range(1, 6)),
        script(
            *([calls(read(f"notes/{n}.md")), Reply("It is", found=r"word-\d+(?=\.)")] for n in range(1, 6))
        ),
        lambda seen: ended(seen) and len(seen.stops) == 5 and "word-35" in seen.text,
        PAGES,
    ),
)
