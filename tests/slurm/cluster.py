"""A Slurm cluster of two nodes on this machine, from packages that are only unpacked.

Nodes are process namespaces: to end one is to end all that runs on it, as when a machine is lost.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n1", "n2")
CPUS = 2  # of each node
PATIENCE = 600  # seconds until a test gives up; what it waits for takes a tenth of that
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
PluginDir={plugins}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=2
SlurmdTimeout=10
SchedulerParameters=bf_interval=5,sched_interval=2,requeue_delay=1
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=2000"
)


def until(what: Callable[[], object], *, said: str) -> None:
    """Wait until something holds; `said` is what the failure says."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, f"{said} after {PATIENCE} s"
        time.sleep(0.3)


@dataclass
class Cluster:
    """A cluster that runs; `folder` is its own, `prefix` has the programs."""

    prefix: Path
    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.plugins,) = self.prefix.glob("usr/lib/*/slurm-wlm")
        (self.folder / "state").mkdir(parents=True)
        host = socket.gethostname()
        ports = free_ports(1 + len(NODES))
        nodes = [
            NODE.format(name=name, host=host, port=port, cpus=CPUS)
            for name, port in zip(NODES, ports[1:], strict=True)
        ]
        self.config.write_text(
            CONFIG.format(
                host=host,
                port=ports[0],
                folder=self.folder,
                plugins=self.plugins,
                nodes="\n".join(nodes),
            )
        )

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What this process has, and where Slurm's programs, libraries and settings are."""
        return os.environ | {
            "SLURM_CONF": str(self.config),
            "LD_LIBRARY_PATH": f"{self.plugins}:{self.plugins.parent}",
            "PATH": f"{self.prefix / 'usr/bin'}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start the controller and the nodes, and wait until they take jobs."""
        self._start("slurmctld", self.prefix / "usr/sbin/slurmctld-wlm", "-D", "-c")
        until(self._answers, said="slurmctld does not answer")
        for name in NODES:
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Start a node, also one that was lost, and wait until it takes jobs.

        It has one core, so that a build in it has one worker.
        """
        cores = sorted(os.sched_getaffinity(0))
        core = cores[NODES.index(name) % len(cores)]
        sbin = self.prefix / "usr/sbin"
        self._start(
            name,
            *("taskset", "--cpu-list", core, "unshare", "-pf", "--mount-proc", "--kill-child"),
            *(sbin / "slurmd-wlm", "-D", "-N", name, "-d", sbin / "slurmstepd-wlm"),
        )
        state = ["sinfo", "--noheader", f"--nodes={name}", "--format=%T", "--partition=low"]
        until(lambda: self.run(*state).strip() == "idle", said=f"node {name} takes no jobs")

    def kill_node(self, name: str) -> None:
        """End a node and all that runs on it at once. Its namespace takes no other signal."""
        node = self.daemons.pop(name)
        node.kill()
        node.wait()

    def stop(self) -> None:
        """End the nodes, then the controller."""
        for name in self.daemons.keys() & set(NODES):
            self.kill_node(name)
        for controller in self.daemons.values():
            controller.terminate()
            controller.wait()

    def run(self, program: str, *arguments: object, environment: Mapping[str, str] = {}) -> str:
        """Run one of Slurm's programs; return what it printed."""
        words = [program, *map(str, arguments)]
        variables = self.environment | environment
        done = subprocess.run(words, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tasks(self, job: int) -> list[dict[str, str]]:
        """Return what Slurm says of the tasks of a job: JobState, Restarts, ExitCode, ..."""
        lines = self.run("scontrol", "show", "job", job, "--oneliner").splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def states(self, job: int) -> Counter[str]:
        """Return how many records of a job are in which state; tasks that wait share one."""
        return Counter(task["JobState"] for task in self.tasks(job))

    def nodes(self, job: int) -> set[str]:
        """Return the nodes on which tasks of a job run."""
        return {each["NodeList"] for each in self.tasks(job) if each["JobState"] == "RUNNING"}

    def _answers(self) -> bool:
        ping = ["scontrol", "ping"]
        return not subprocess.run(ping, env=self.environment, capture_output=True).returncode

    def _start(self, name: str, *command: object) -> None:
        """Start a daemon that ends when this process does."""
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
                env=self.environment,
                stdout=out,
                stderr=out,
            )


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
