"""The hosts of deploy/hosts.toml, the only ones besides this machine's own servers that load is ever put on."""

import tomllib
from dataclasses import dataclass

from measuring import ROOT

HOSTS = ROOT / "deploy" / "hosts.toml"


@dataclass(frozen=True)
class Host:
    """A server that runs already. `scenario` is what its handlers do, as its operator says."""

    name: str
    address: str
    port: int
    scenario: str


def listed_host(name: str) -> Host:
    """SystemExit for one that is not listed."""
    hosts = [Host(**{"scenario": "1", **row}) for row in tomllib.loads(HOSTS.read_text())["host"]]
    for host in hosts:
        if host.name == name:
            return host
    names = ", ".join(host.name for host in hosts)
    raise SystemExit(f"expected --host to be listed in deploy/hosts.toml ({names}), got {name!r}")
