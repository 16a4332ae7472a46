"""Two network namespaces that stand for two machines, joined by a link that delays packets and loses some of them.

Each namespace has a TUN device, and a thread of this process carries the packets from one to the other. `tc netem` would delay
and lose them in the kernel, but many kernels are built without it.
"""

import ctypes
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TUN = Path("/dev/net/tun")
_SET_INTERFACE = 0x400454CA  # the request TUNSETIFF
_PACKETS_WITHOUT_HEADER = 0x0001 | 0x1000  # IFF_TUN | IFF_NO_PI
_NETWORK_NAMESPACE = 0x40000000  # CLONE_NEWNET
_MTU = 1500


@dataclass(frozen=True)
class Machine:
    """One of the two namespaces."""

    name: str
    address: str
    interface: str

    def enter(self) -> None:
        """Move this thread, and the threads that it starts from now on, into the namespace, and let gloo use its interface."""
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _NETWORK_NAMESPACE):
                raise OSError(ctypes.get_errno(), f"the process cannot enter the namespace {self.name}")
        finally:
            os.close(descriptor)
        os.environ["GLOO_SOCKET_IFNAME"] = self.interface


def why_unavailable() -> str | None:
    """Return why this process cannot make network namespaces, or None if it can."""
    if sys.platform != "linux":
        return "network namespaces exist on Linux only"
    if shutil.which("ip") is None:
        return "the command `ip` of iproute2 is not installed"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} is missing, or may not be opened without root's rights"
    name = f"oht-probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"`ip netns add` fails: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return None


@contextmanager
def two_machines(*, delay: float, loss: float) -> Iterator[tuple[tuple[Machine, Machine], "Link"]]:
    """Yield two namespaces and the link between them, which carries a packet after `delay` seconds, or with chance `loss` not."""
    machines = tuple(
        Machine(f"oht-{os.getpid()}-{side}", f"10.213.0.{side}", f"oht{os.getpid() % 10**6}-{side}") for side in (1, 2)
    )
    with ExitStack() as stack:
        devices = []
        for machine in machines:
            _ip("netns", "add", machine.name)
            stack.callback(_ip, "netns", "del", machine.name)
            devices.append(_device(machine))
            stack.callback(os.close, devices[-1])
        link = Link(devices[0], devices[1], delay, loss)
        link.start()
        stack.callback(link.stop)
        yield (machines[0], machines[1]), link


def _device(machine: Machine) -> int:
    """Make the TUN device of a namespace, and return the descriptor through which its packets are read and written."""
    import fcntl

    descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _SET_INTERFACE, struct.pack("16sH14x", machine.interface.encode(), _PACKETS_WITHOUT_HEADER))
    _ip("link", "set", machine.interface, "netns", machine.name)
    inside = ("-n", machine.name)
    _ip(*inside, "address", "add", f"{machine.address}/24", "dev", machine.interface)
    for interface in ("lo", machine.interface):
        _ip(*inside, "link", "set", interface, "up")
    return descriptor


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class Link:
    """A thread that carries packets between two TUN devices."""

    left: int
    right: int
    delay: float
    loss: float
    carried: int = 0
    lost: int = 0
    _cut: threading.Event = field(default_factory=threading.Event)
    _wake: tuple[int, int] = field(default_factory=os.pipe)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Lose all packets from now on, as a cable that is pulled does."""
        self._cut.set()

    def stop(self) -> None:
        os.write(self._wake[1], b"x")
        self._thread.join()
        for end in self._wake:
            os.close(end)

    def _carry(self) -> None:
        chance, order = random.Random(0), itertools.count()
        other = {self.left: self.right, self.right: self.left}
        waiting: list[tuple[float, int, int, bytes]] = []  # (time of arrival, order of sending, device, packet)
        while True:
            patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready, _, _ = select.select([*other, self._wake[0]], [], [], patience)
            if self._wake[0] in ready:
                return
            for device in ready:
                packet = os.read(device, _MTU + 100)
                if self._cut.is_set() or chance.random() < self.loss:
                    self.lost += 1
                else:
                    heapq.heappush(waiting, (time.monotonic() + self.delay, next(order), other[device], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                *_, device, packet = heapq.heappop(waiting)
                os.write(device, packet)
                self.carried += 1
