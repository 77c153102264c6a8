"""README's five-minute tour does what it says: each command is run and its output compared with the page."""

import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from daemon import BINARY, ROOT, Daemon

COMMAND = re.compile(r"^\$ (.*)$")
ANY_LINES = r"(?:.*\n)*"


def tour():
    """The commands between the marks, each with the output the page shows."""
    text = (ROOT / "README.md").read_text().split("<!-- tour: begin -->")[1].split("<!-- tour: end -->")[0]
    lines = itertools.chain.from_iterable(block.splitlines() for block in re.findall(r"```console\n(.*?)```", text, re.S))
    steps = []
    for line in lines:
        if match := COMMAND.match(line):
            steps.append((match[1], []))
        else:
            steps[-1][1].append(line)
    return [(command, "\n".join(shown)) for command, shown in steps]


def looks_like(shown, found):
    """Whether an output is the shown one; `...` stands for anything on a line, a line of `...` alone for any lines."""
    if not shown:
        return not found.strip()
    lines = [ANY_LINES if line.strip() == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in shown.splitlines()]
    return re.fullmatch("".join(lines), found.rstrip() + "\n") is not None


class Shell:
    """One bash for the whole tour, so that variables stay."""

    def __init__(self, folder, environment):
        self.bash = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, command):
        self.bash.stdin.write(f"{command}\necho; echo '--- end of output ---'\n")
        self.bash.stdin.flush()
        lines = list(iter(self.bash.stdout.readline, "--- end of output ---\n"))
        return "".join(lines)

    def close(self):
        self.bash.stdin.close()
        self.bash.wait(10)


@pytest.fixture
def visitor(tmp_path):
    """A daemon over a copy of what ships, and a shell that finds it where README says it is."""
    shutil.copytree(ROOT / "models", tmp_path / "models")
    (tmp_path / "target" / "release").mkdir(parents=True)
    (tmp_path / "target" / "release" / "kserved").symlink_to(BINARY)
    daemon = Daemon(tmp_path)
    daemon.start()
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KSERVED_SERVER": f"http://{daemon.http}"}
    shell = Shell(tmp_path, environment)
    yield daemon, shell
    shell.close()
    daemon.stop()


def test_every_command_of_the_tour_does_what_the_page_shows(visitor):
    daemon, shell = visitor
    steps = tour()
    assert len(steps) > 10
    for command, shown in steps:
        here = command.replace("127.0.0.1:8080", daemon.http).replace("127.0.0.1:8081", daemon.grpc)
        found = patient(shell, here, shown)
        assert looks_like(shown, found), f"$ {command}\n{found}\n--- the page shows:\n{shown}"


def patient(shell, command, shown):
    """Runs a command; one that only looks is asked again until it shows what the page shows, for at most ten seconds."""
    deadline, found = time.monotonic() + 10, shell.run(command)
    only_looks = command.startswith(("curl", "target/release/kserved get", "grpcurl"))
    while only_looks and not looks_like(shown, found) and time.monotonic() < deadline:
        time.sleep(0.05)
        found = shell.run(command)
    return found


def test_the_line_the_daemon_prints_to_try_a_model_works(visitor):
    daemon, shell = visitor
    (line,) = [line.strip() for line in daemon.log.read_text().splitlines() if line.strip().startswith("curl ")]
    assert '"species"' in shell.run(line), line
