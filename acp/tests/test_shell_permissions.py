from __future__ import annotations

import shlex
import subprocess
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.agent.permission_rules import PermissionRules, covers
from helexa_acp.tools.shell import permissions
from helexa_acp.tools.shellwords import parse
from helexa_acp.tools.tool import Permission, PermissionRule


@pytest.mark.parametrize(
    ("command", "parsed"),
    [
        ("ls", [("ls",)]),
        ("git status && git diff", [("git", "status"), ("git", "diff")]),
        ("a; b | c || d & e", [("a",), ("b",), ("c",), ("d",), ("e",)]),
        ("echo 'a && b' \"c; d\"", [("echo", "a && b", "c; d")]),
        ("make 2>&1 >/dev/null", [("make",)]),
        ("ls\nrm x", [("ls",), ("rm", "x")]),
        ("echo ''", [("echo", "")]),
        ("ls\rrm x", [("ls\rrm", "x")]),
        ("ls\u00a0rm \x0bx \u2028", [("ls\u00a0rm", "\x0bx", "\u2028")]),
    ],
)
def test_commands_are_parsed_into_simple_commands(command, parsed):
    assert [simple.words for simple in parse(command)] == parsed


@pytest.mark.parametrize(
    "command",
    [
        *(
            "echo $(rm x)",
            "echo `rm x`",
            "echo $HOME",
            'echo "$(rm x)"',
            "cat <(ls)",
            "ls > file",
            "ls >> file",
            "(rm x)",
        ),
        *(
            "{ rm x; }",
            "if true; then rm x; fi",
            "A=1 rm x",
            "eval ls",
            "ls \\; rm x",
            "echo 'open",
            "ls # rm",
            "",
            "   ",
        ),
        *(
            ". ./x",
            "! ls",
            "cat <<E\nE",
            "for i in a; do rm x; done",
            'echo "a\\"; rm x"',
            "ls 2>file",
            "x >&2",
            "ls >\u00a0/dev/null",
            "a[0]=1 ls",
        ),
    ],
)
def test_commands_with_hidden_effects_are_opaque(command):
    assert parse(command) is None


@given(st.text(alphabet="ab;&|\"' \n-.", max_size=30))
def test_parsed_words_are_what_a_shell_would_run(command):
    simple = parse(command)
    if simple is None:
        return
    parsed = [each.words for each in simple]
    if any(word[0] not in "ab" for words in parsed for word in words if word):
        return
    log = subprocess.run(
        ["/bin/bash", "-nc", command], capture_output=True, text=True, timeout=10, check=False, env={}
    )
    if log.returncode == 0 and parsed and "\n" not in command:
        lexer = shlex.shlex(command, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words = [word for word in lexer if set(word) - set(";&|") or word == ""]
        assert [word for simple in parsed for word in simple] == words


@given(st.lists(st.text(alphabet="ab'\" \t\r\x0b\x0c\u00a0\u2003", min_size=1, max_size=8), max_size=6))
def test_words_are_split_as_the_shell_splits_them(pieces):
    """The shell prints the words that it got, each ended by a null."""
    command = "echo_words " + " ".join(pieces)
    parsed = parse(command)
    script = "echo_words() { printf '%s\\0' \"$@\"; }; " + command
    ran = subprocess.run(["/bin/bash", "-c", script], capture_output=True, timeout=10, check=False)
    if parsed is None:
        return
    words = parsed[0].words[1:]
    assert ran.stdout.decode() == "".join(f"{word}\0" for word in words or ("",))


def test_every_part_needs_its_own_permission():
    first, second = permissions("git status && rm -rf /")
    assert covers(PermissionRule("shell", "prefix", "git status"), first)
    assert not covers(PermissionRule("shell", "prefix", "git status"), second)


def test_a_prefix_never_covers_an_opaque_command():
    (permission,) = permissions("git status; echo $(rm x)")
    assert not covers(PermissionRule("shell", "prefix", "git status"), permission)
    assert covers(PermissionRule("shell", "exact", "git status; echo $(rm x)"), permission)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "bash -c x",
            "sudo ls",
            "rm x",
            "python3.12 x.py",
            "env ls",
            "xargs rm",
            "docker run x",
            "npm test",
        ),
        *("find . -exec x", "sort -o x", "git log --output=x", "git -c a=b status", "git grep -Ox y"),
        *("./ls x", "/bin/ls x", "rg --pre x y", "make x", "tar xf x", "printf -v 'a[$(x)]' y", "LS x"),
        *("test -v 'a[$(x)]'", "uniq a b", "kubectl get --kubeconfig=x pods", "cargo tree --config x"),
    ],
)
def test_no_prefix_is_offered_for_what_may_run_or_write_something(command):
    assert [rule.match for rule in permissions(command)[0].rules] == ["exact"]


@pytest.mark.parametrize(
    ("command", "prefix"), [("ls -l", "ls"), ("git status -s", "git status"), ("grep 'a b' *.py", "grep")]
)
def test_a_prefix_is_offered_for_what_only_reads(command, prefix):
    assert permissions(command)[0].rules[-1] == PermissionRule("shell", "prefix", prefix)


@pytest.mark.parametrize(
    ("permitted", "other"),
    [("rm '*'", "rm *"), ("cat '~/a'", "cat ~/a"), ("rm 'a b'", "rm a b"), ('x "[ab]"', "x [ab]")],
)
def test_an_exact_rule_does_not_cover_the_same_words_with_other_quotes(permitted, other):
    rule = permissions(permitted)[0].rules[0]
    assert rule.value == permitted
    assert not covers(rule, permissions(other)[0])
    assert covers(rule, permissions(f"true && {permitted} ")[1])


@pytest.mark.parametrize("value", ["ls\u00a0-l", "ls\r-l", "ls; rm", "ls $(x)", ""])
def test_a_prefix_is_split_as_the_shell_would(value):
    (permission,) = permissions("ls -l x")
    assert not covers(PermissionRule("shell", "prefix", value), permission)


def test_prefixes_are_words_not_letters():
    (permission,) = permissions("gitk --all")
    assert not covers(PermissionRule("shell", "prefix", "git"), permission)


def test_under_means_below_and_not_beside():
    rule = PermissionRule("edit", "under", "/home/me/project")
    assert covers(rule, Permission("edit", "/home/me/project/a", ()))
    assert not covers(rule, Permission("edit", "/home/me/project-2/a", ()))


def test_rejections_take_precedence_and_tools_are_separate(tmp_path):
    rules = PermissionRules(tmp_path / "p.toml", "/p")
    permission = Permission("shell", "ls -l", (), ("ls", "-l"))
    rules.remember("allow", [PermissionRule("shell", "prefix", "ls")])
    assert rules.decide(permission) is True
    assert rules.decide(Permission("edit", "ls -l", ())) is None
    rules.remember("reject", [PermissionRule("shell", "exact", "ls -l")])
    assert rules.decide(permission) is False


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.sampled_from(["exact", "prefix", "under", "any"]), st.text()),
        max_size=5,
    )
)
def test_rules_survive_a_round_trip_through_their_file(tmp_path_factory, entries):
    rules = PermissionRules(tmp_path_factory.mktemp("rules") / "p.toml", "x")
    wanted = []
    for tool, match, value in entries:
        rule = PermissionRule(*(text.encode("utf-8", "replace").decode() for text in (tool, match, value)))
        wanted += [rule] if rule not in wanted else []
        rules.remember("allow", [rule])
    assert rules.read()["allow"] == wanted


def test_the_rules_file_is_readable_and_a_damaged_one_permits_nothing(tmp_path):
    rules = PermissionRules(tmp_path / "p.toml", "/home/me")
    rules.remember("allow", [PermissionRule("shell", "exact", 'echo "x"')])
    assert tomllib.loads(rules.path.read_text()) == {
        "allow": [{"tool": "shell", "match": "exact", "value": 'echo "x"'}]
    }
    rules.path.write_text("[[allow")
    assert rules.read() == {"allow": [], "reject": []}
    rules.remember("allow", [PermissionRule("shell", "exact", "ls")])
    assert rules.path.read_text() == "[[allow"  # so that its user can repair it
